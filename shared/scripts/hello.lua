-- A process's first word, and its first after Redis was replaced: who else is here, and whether this is another server.
-- Returns {'ok'}, or {'other', protocol, name...} where live processes speak another protocol.
local now = clock()
redis.call('ZREMRANGEBYSCORE', NAMES.processes, '-inf', now - 60000)
local others, spoken = {}, nil
for _, known in ipairs(redis.call('ZRANGEBYSCORE', NAMES.processes, now - PROCESS_MS, now)) do
  local theirs, name = string.match(known, '^(%S+) (.+)$')
  if theirs and theirs ~= protocol then others[#others + 1], spoken = name, theirs end
end
-- Versions before protocol 2 left no such word; they are known by their heartbeats.
for _, name in ipairs(redis.call('SMEMBERS', OLD_OWNERS)) do
  if redis.call('EXISTS', OLD_OWNER .. name) == 1 then others[#others + 1], spoken = name, '1' end
end
for model in rows() do
  for _, name in ipairs(redis.call('ZRANGEBYSCORE', OLD_WORKERS .. model, now - PROCESS_MS, now)) do
    others[#others + 1], spoken = name, '1'
  end
end
if spoken then return {'other', spoken, unpack(others, 1, 20)} end
redis.call('ZADD', NAMES.processes, now, process)
-- Another server than before may have lost its running set; jobs that run would be counted out and the cap doubled. So
-- nothing is taken for one lease, within which every worker has said what it holds.
local run = redis.call('GET', NAMES.run)
if (run and run ~= run_id) or (not run and knew_another) then redis.call('SET', NAMES.hold, '1', 'PX', lease_ms) end
redis.call('SET', NAMES.run, run_id, 'PX', DAY_MS)
return {'ok'}
