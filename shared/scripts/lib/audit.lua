-- What operators did, newest first: who, by which way, what, and what became of it. The last AUDIT_ENTRIES are kept.
local function audit(now, by, via, action, target, outcome)
  redis.call('LPUSH', NAMES.audit, cjson.encode({at = now, by = by, via = via, action = action, target = target, outcome = outcome}))
  redis.call('LTRIM', NAMES.audit, 0, AUDIT_ENTRIES - 1)
end
