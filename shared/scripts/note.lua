-- Writes one entry into the audit log: of what no script of its own has done.
audit(clock(), by, via, action, target, outcome)
return 1
