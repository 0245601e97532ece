-- What many scripts need. Only the definitions that a script uses, directly or through others, are put in front of it
-- (shared/scripting.py), since each would be made anew in every call. NAMES.x becomes the key prefix itself; the numbers
-- in capitals come from shared/protocol.py. Times are milliseconds of Redis's own clock. Scripts build key names from ids
-- that they find, so Redis Cluster is refused.

-- Read once, so that all of a script is of one moment. Before Redis 7.2 the clock goes on meanwhile, and lifetimes are
-- counted by the one that goes on.
local the_time = nil
local function clock()
  if not the_time then
    local t = redis.call('TIME')
    the_time = t[1] * 1000 + math.floor(t[2] / 1000)
  end
  return the_time
end

-- At maxmemory Redis refuses a script's first write if it could grow memory, but no later one. Scripts that must work
-- there (heartbeats, renewals, the sweep, ends) therefore begin with a write that can only shrink.
local function write_at_maxmemory() redis.call('DEL', NAMES.job) end

-- What kind of an error this is: 'redis' where Redis refuses all work for now (full, read-only, cannot write its file),
-- 'ours' where one job made the script fail.
local function error_text(failure) return type(failure) == 'table' and (failure.err or 'error') or tostring(failure) end
local function is_refusal(text)
  for _, word in ipairs({'OOM', 'READONLY', 'MISCONF', 'MASTERDOWN', 'NOREPLICAS', 'NOPERM'}) do
    if string.find(text, word, 1, true) then return true end
  end
  return false
end

-- After a gap in the sweeps (Redis was away), or when its clock was set back, nobody is judged for having been silent:
-- every lease and heartbeat gets one more life.
local function stood_still(now)
  local swept = tonumber(redis.call('GET', NAMES.swept) or now)
  return swept > now or now - swept > STANDSTILL_MS
end

-- A key's lifetime is counted by the clock too: one that has longer to live than it was ever given is no key.
local function stands(key, given_ms)
  local left = redis.call('PTTL', key)
  return left > 0 and left <= given_ms
end

-- A heartbeat that lies in the future is of before the clock was set back; the next sweep puts it right.
local function live_workers(model, now, within)
  return redis.call('ZCOUNT', NAMES.workers .. model, now - within, '+inf')
end

-- Pushes a ticket unless as many as the model has live workers already lie there.
local function push_ticket(queue, ticket, id, live)
  if redis.call('LLEN', queue) < math.max(1, live) then
    redis.call('LPUSH', queue, (string.gsub(ticket, '@ID@', id)))
  end
end

-- Records ---------------------------------------------------------------------------------------------------------

-- A job's record as a table, or nil when there is none. Its facts, which never change, are one JSON object; what changes
-- are fields beside it; its spec and body are the worker's, and read on request. A record that cannot be read counts as lost,
-- and harms no other.
local function load_job(id, with_body)
  local key = NAMES.job .. id
  -- A field named twice costs next to nothing, a second call does.
  local v = redis.call('HMGET', key, 'facts', 'owners', 'state', 'attempt', 'tries', 'cancelled', 'tag', 'deadline',
    with_body and 'spec' or 'state', with_body and 'body' or 'state', 'taken')
  if not v[1] then return nil end
  local ok, job = pcall(cjson.decode, v[1])
  if not ok or type(job) ~= 'table' or type(job.model) ~= 'string' or type(job.lane) ~= 'string' then
    redis.call('DEL', key)
    return nil
  end
  job.tenant, job.idempotency = job.tenant or '', job.idempotency or ''
  if job.token and not job.limits then job.limits = {{job.token, 'c', 0}} end  -- as older versions write it
  job.sink, job.group_weight = job.sink or '', tonumber(job.group_weight) or 1
  job.cost, job.weight, job.bytes = tonumber(job.cost) or 1, tonumber(job.weight) or 1, tonumber(job.bytes) or 0
  job.admitted, job.max_tries = tonumber(job.admitted) or 0, tonumber(job.max_tries) or 1
  job.owners, job.state, job.attempt = v[2] or '', v[3] or 'waiting', v[4] or ''
  if with_body then job.spec, job.body = v[9] or '', v[10] end
  job.tries, job.cancelled, job.tag, job.deadline = tonumber(v[5]) or 0, v[6] == '1', tonumber(v[7]) or 0, tonumber(v[8])
  job.taken = tonumber(v[11])
  return job
end

-- A batch's line: its batch's window alone ends its waiting, and nobody but its feeder listens. Jobs whose answers are
-- stored have a sink too, and are otherwise as any.
local function is_line(sink) return sink ~= '' and sink ~= STORED end

-- Owners are names separated by blanks; nearly always there is one.
local function each_owner(owners) return string.gmatch(owners, '%S+') end

local function has_owner(owners, owner)
  return string.find(' ' .. owners .. ' ', ' ' .. owner .. ' ', 1, true) ~= nil
end

local function without_owner(owners, owner)
  local left = {}
  for name in each_owner(owners) do if name ~= owner then left[#left + 1] = name end end
  return table.concat(left, ' ')
end

-- Frames ----------------------------------------------------------------------------------------------------------

local frames = {}

local framed = {}

-- The attempt's nonce, by which a reader tells one run of a job from another; of fixed length.
local function nonce_of(attempt) return #attempt > NONCE_BYTES and string.sub(attempt, -NONCE_BYTES) or NO_NONCE end

-- Remembers one event for a job's owners; publish_frames sends them all, one message an owner. Head and payload stay apart,
-- as Redis hashes every byte of each string that Lua makes.
local function frame(owners, id, nonce, number, payload)
  local lists = framed[owners]
  if not lists then
    lists = {}
    for owner in each_owner(owners) do
      frames[owner] = frames[owner] or {}
      lists[#lists + 1] = frames[owner]
    end
    framed[owners] = lists
  end
  local size, inline = #payload, true
  if size > INLINE_BYTES then size, inline = LOG_ONLY, false end
  local head = id .. nonce .. struct.pack('>I4I4', number, size)
  for i = 1, #lists do
    local list = lists[i]
    list[#list + 1] = head
    if inline then list[#list + 1] = payload end
  end
end

local function publish_frames()
  for owner, list in pairs(frames) do redis.call('PUBLISH', NAMES.events .. owner, table.concat(list)) end
  frames, framed = {}, {}
end
