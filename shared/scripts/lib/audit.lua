-- What operators did, one entry each: who, by which way, what, and what became of it. The log keeps the last AUDIT_ENTRIES.
local function audit(now, by, via, action, target, outcome)
  redis.call('XADD', NAMES.audit, 'MAXLEN', '~', AUDIT_ENTRIES, '*', 'at', now, 'by', by, 'via', via, 'action', action,
    'target', target, 'outcome', outcome)
end
