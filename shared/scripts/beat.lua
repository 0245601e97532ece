-- An API process's heartbeat. ARGV: owner, life_ms, what: 'alive' or 'gone'. Returns the time.
local owner = ARGV[1]
write_at_maxmemory()
if ARGV[3] == 'gone' then
  redis.call('DEL', NAMES.owner .. owner)
else
  redis.call('SET', NAMES.owner .. owner, '1', 'PX', ARGV[2])
  redis.call('SADD', NAMES.owners, owner)
  redis.call('PEXPIRE', NAMES.owned .. owner, 86400000)
end
return clock()
