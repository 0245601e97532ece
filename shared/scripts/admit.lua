-- Accepts a job into its model's waiting room, or says why not; pushes a ticket. One round trip.
-- ARGV: id, model, lane, tenant, weight, cost, body ('' when stored before), bytes, meta, owner, keep, max_wait_ms,
--       life_ms, not_after, max_queue, max_tokens, max_bytes, tenant_share, concurrency, token, requests_per_minute,
--       concurrent_jobs, grace_ms, queue, ticket, max_tries, idempotency ('' or name of its key), hash of the body,
--       batch_reserve
-- Returns {verdict, number, now, limit, remaining, reset_ms}: verdict 'ok' (number: jobs ahead), or with number =
--       milliseconds to wait: 'full', 'share', 'rate', 'jobs', 'no_worker', 'late', 'again' (this id was admitted before),
--       'reused' (the idempotency key stands for another body), or 'join' with the id of its job instead of limit
local id, model, lane, tenant = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local weight, cost, body, bytes = tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7], tonumber(ARGV[8])
local owner, keep, max_wait, life, not_after = ARGV[10], ARGV[11], tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local max_queue, max_tokens, max_bytes, share = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17]), tonumber(ARGV[18])
local concurrency, token, per_minute, token_jobs = tonumber(ARGV[19]), ARGV[20], tonumber(ARGV[21]), tonumber(ARGV[22])
local grace, queue, ticket = tonumber(ARGV[23]), ARGV[24], ARGV[25]
local now = clock()
local limit, remaining, reset = 0, 0, 0

if now > not_after then return {'late', 0, now} end
if redis.call('EXISTS', NAMES.job .. id) == 1 then return {'again', 0, now} end

local idempotency = ''
if ARGV[27] ~= '' then
  idempotency = NAMES.idempotency .. ARGV[27]
  local known = redis.call('GET', idempotency)
  local first = known and string.sub(known, 1, 32)
  local job = first and load_job(first)
  -- A failure is not replayed: the caller retries because of it.
  if job and job.state == 'ended' and string.sub(redis.call('LINDEX', NAMES.log .. first, -1) or '', 1, 1) == 'E' then
    job = nil
  end
  if job then
    if string.sub(known, 34) ~= ARGV[28] then return {'reused', 0, now} end
    -- The newest connection is the owner: it hears the live events, and the job lives as long as its process.
    if job.state ~= 'ended' and job.cancelled == '' then
      redis.call('SREM', NAMES.owned .. job.owner, first)
      redis.call('SADD', NAMES.owned .. owner, first)
      redis.call('HSET', NAMES.job .. first, 'owner', owner)
    end
    if job.cancelled == '' then return {'join', 0, now, first} end
  end
end

-- Requests a minute: the generic cell rate algorithm, one number a token.
local rate_key, next_clock = NAMES.rate .. token, nil
if per_minute > 0 then
  local step = 60000 / per_minute
  local at = math.max(tonumber(redis.call('GET', rate_key) or 0), now)
  limit = per_minute
  if at + step - now > 60000.5 then return {'rate', math.ceil(at + step - now - 60000), now, limit, 0, math.ceil(at - now)} end
  next_clock = at + step
  remaining, reset = math.floor((60000.5 - (next_clock - now)) / step), math.ceil(next_clock - now)
end
if token_jobs > 0 then
  -- Only counted here: a write that frees memory would let all later ones pass at maxmemory.
  if redis.call('ZCOUNT', NAMES.token_jobs .. token, '(' .. now, '+inf') >= token_jobs then return {'jobs', 1000, now, limit, remaining, reset} end
end
local live = live_workers(model, now, 6000)
if live == 0 and live_workers(model, now, grace) == 0 then
  return {'no_worker', 5000, now, limit, remaining, reset}
end

local ahead = waiting(model, lane)
local free = math.max(0, concurrency - redis.call('ZCARD', NAMES.running .. model))
if lane == 'batch' then  -- slots that are kept from batch work are not free for it
  free = math.max(0, math.min(free, concurrency - tonumber(ARGV[29]) - redis.call('SCARD', NAMES.batch .. model)))
end
if is_bounded(lane, keep) then
  -- Jobs that free slots will take at once do not wait, so they do not count against the queue.
  local room = redis.call('HMGET', NAMES.room .. model, room_field(lane, 'tokens'), room_field(lane, 'bytes'), 'every_ms')
  local full = ahead >= max_queue + free
  if ahead >= free then
    full = full or (max_tokens > 0 and tonumber(room[1] or 0) + cost > max_tokens)
      or (max_bytes > 0 and tonumber(room[2] or 0) + bytes > max_bytes)
  end
  -- The place is free after one end; a quarter of the room keeps a crowd of retries from coming back too soon.
  local wait = math.min(60000, math.max(1000, (tonumber(room[3] or 0)) * math.ceil(ahead / 4)))
  if full then return {'full', wait, now, limit, remaining, reset} end
  local mine = tonumber(redis.call('HGET', NAMES.tenants .. model, room_field(lane, tenant)) or 0)
  if mine >= share + free then return {'share', wait, now, limit, remaining, reset} end
end

if body ~= '' then redis.call('SET', NAMES.body .. id, body, 'PX', life)
elseif redis.call('PEXPIRE', NAMES.body .. id, life) == 0 then return {'late', 0, now} end
if next_clock then redis.call('SET', rate_key, next_clock, 'PX', 120000) end
if token_jobs > 0 then
  redis.call('ZREMRANGEBYSCORE', NAMES.token_jobs .. token, '-inf', now)
  redis.call('ZADD', NAMES.token_jobs .. token, now + life, id)
  redis.call('PEXPIRE', NAMES.token_jobs .. token, life + 1000)
else token = '' end

local job = {model = model, lane = lane, tenant = tenant, share = cost / weight, cost = cost, bytes = bytes,
  keep = keep, counted = (max_tokens > 0 or max_bytes > 0) and '1' or ''}
local tag = enter_lane(id, job, nil)
count_waiting(job, 1)
redis.call('HSET', NAMES.job .. id, 'model', model, 'owner', owner, 'lane', lane, 'tenant', tenant, 'share', job.share,
  'cost', cost, 'weight', weight, 'tag', tag, 'state', 'waiting', 'attempt', '', 'tries', 0, 'cancelled', '', 'keep', keep,
  'token', token, 'bytes', bytes, 'admitted', now, 'meta', ARGV[9], 'max_tries', ARGV[26], 'idempotency', idempotency,
  'deadline', now + max_wait, 'counted', job.counted, 'life', life)
if idempotency ~= '' then redis.call('SET', idempotency, id .. ' ' .. ARGV[28], 'PX', life) end
redis.call('PEXPIRE', NAMES.job .. id, life)
redis.call('ZADD', NAMES.waits .. model, now + max_wait, id)
if ahead == 0 then redis.call('PEXPIRE', NAMES.waits .. model, DAY) end
if owner ~= '' then redis.call('SADD', NAMES.owned .. owner, id) end
-- A full running set needs no ticket: the slot that ends takes the next job by itself. Nor does a busy worker that has
-- just promised to look again within milliseconds: a ticket costs more than everything else a short job needs.
if free > 0 and redis.call('EXISTS', NAMES.awake .. model) == 0 then push_ticket(queue, ticket, id, live) end
return {'ok', ahead, now, limit, remaining, reset}
