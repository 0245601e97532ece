-- Accepts a job into its model's waiting room, or says why not; pushes a ticket. One round trip.
--
--   state     who moves it      to
--   (none)    admit             waiting                     here
--   waiting   cancel, sweep     (none), ended
--   waiting   take              running
--
-- With `ask` nothing is accepted: 'ok' says that it would be, so that a large body is stored only for a job that gets in.
concurrency, batch_reserve = places_now(model, concurrency, batch_reserve)
local now = clock()
local body_key = NAMES.body .. id
local rates, breach = {}, {}

-- What a refused request brought is gone when its refusal leaves.
local function refuse(verdict, number)
  if apart and not ask then redis.call('UNLINK', body_key) end
  return {verdict, number or 0, now, rates, breach, '', -1, {}}
end

if now > not_after then return refuse('late') end
if redis.call('EXISTS', NAMES.job .. id) == 1 then return {'again', 0, now, {}, {}, '', -1, {}} end

local key = ''
if idempotency ~= '' then
  key = NAMES.idempotency .. idempotency
  local known = redis.call('GET', key)
  local first = known and string.sub(known, 1, 32)
  local job = first and load_job(first)
  -- A failure is not replayed: the caller retries because of it.
  if job and job.state == 'ended' and string.sub(redis.call('LINDEX', NAMES.log .. first, -1) or '', 1, 1) == 'E' then
    job = nil
  end
  if job then
    if string.sub(known, 34) ~= body_hash then return refuse('reused') end
    if not job.cancelled then
      -- It has one owner more: each hears the live events, and the job lives as long as any of them.
      if job.state ~= 'ended' and not has_owner(job.owners, owner) then
        redis.call('SADD', NAMES.owned .. owner, first)
        redis.call('HSET', NAMES.job .. first, 'owners', job.owners == '' and owner or job.owners .. ' ' .. owner)
      end
      refuse('join')
      return {'join', 0, now, {}, {}, first, -1, {}}
    end
  end
end

local limits, tokens = {}, 0
local judge, kept, charge
for subject, requests, tokens_a_minute, jobs, waits, day_tokens, month_tokens, day_slot_ms, month_slot_ms in rows() do
  limits[#limits + 1] = {subject = subject, requests = requests, tokens = tokens_a_minute, jobs = jobs, waits = waits,
    budgets = {day_tokens, month_tokens, day_slot_ms, month_slot_ms}}
end
if limits[1] then judge, kept, charge = gatekeeper() end
-- A batch's line was let in with its batch: it is charged to the budgets, and never refused.
if limits[1] and not is_line(sink) then
  tokens = math.ceil(cost)
  local verdict, number, broken = judge(limits, promised_to, is_retry, tokens, now, rates)
  if verdict then
    breach = broken
    return refuse(verdict, number)
  end
end
local live = live_workers(model, now, LIVE_WORKER_MS)
-- A batch's line has its whole window to wait for a worker.
if live == 0 and not is_line(sink) and live_workers(model, now, grace_ms) == 0 then
  -- Its workers may have left in order a moment ago, to be started again.
  local left_at = tonumber(redis.call('HGET', NAMES.room .. model, 'left_at') or 0)
  if left_at > now or now - left_at > grace_ms then return refuse('no_worker', 5000) end
end

local ahead = waiting(model, lane)
local open = math.max(0, concurrency - redis.call('ZCARD', NAMES.running .. model))
if lane == 'batch' then  -- slots that are kept from batch work are not free for it
  open = math.max(0, math.min(open, concurrency - batch_reserve - redis.call('SCARD', NAMES.batch_running .. model)))
end
-- A place is free after one end; a quarter of the room keeps a crowd of retries from coming back too soon.
local function until_free(every_ms)
  return math.min(60000, math.max(1000, tonumber(every_ms or 0) * math.max(1, math.ceil(ahead / 4))))
end
local room = nil
if is_bounded(lane, must_finish, sink) then
  room = redis.call('HMGET', NAMES.room .. model, room_field(lane, 'tokens'), room_field(lane, 'bytes'), 'every_ms', 'held', 'state')
  if room[5] == 'retired' then return refuse('retired') end
  if room[4] then open = 0 end  -- what holds the model keeps every slot
  if at_once and ahead >= open then return refuse('busy', until_free(room[3])) end
end
if limits[1] and ahead >= open and not is_line(sink) then
  for _, limit in ipairs(limits) do
    local number = limit.waits > 0 and redis.call('ZCOUNT', NAMES.subject_waits .. limit.subject, now + 1, '+inf') or 0
    if limit.waits > 0 and number >= limit.waits then
      breach = {limit.subject, 'waiting_jobs', limit.waits, number, 1}
      return refuse('waits', until_free(redis.call('HGET', NAMES.room .. model, 'every_ms')))
    end
  end
end
if room then
  -- Jobs that free slots will take at once do not wait, so they do not count against the queue.
  local full = ahead >= max_queue + open
  if ahead >= open then
    full = full or (max_queue_tokens > 0 and tonumber(room[1] or 0) + cost > max_queue_tokens)
      or (max_queue_bytes > 0 and tonumber(room[2] or 0) + size > max_queue_bytes)
  end
  if full then return refuse('full', until_free(room[3])) end
  if ahead >= tenant_share + open then  -- else its share, which is a part of all who wait, is not looked up
    local mine = redis.call('HGET', NAMES.tenants .. model, share_field(lane, tenant, group ~= '' and group or nil))
    if tonumber(mine or 0) >= tenant_share + open then return refuse('share', until_free(room[3])) end
  end
end
if ask then return {'ok', ahead, now, rates, breach, '', -1, {}} end

if apart and redis.call('EXISTS', body_key) == 0 then return refuse('late') end

local job = {model = model, lane = lane, tenant = tenant, cost = cost, weight = weight, bytes = size,
  must_finish = must_finish, counts_tokens = max_queue_tokens > 0, sink = sink,
  group = group ~= '' and group or nil, group_weight = group_weight}
-- The first write is one that grows memory: at maxmemory nothing is let in by a first that does not. Each write costs as
-- much as five reads, since it goes into the append-only file too; so the record is one.
facts = facts .. ',"admitted":' .. now
if limits[1] then facts = facts .. kept(limits, is_line(sink)) end
local deadline = is_line(sink) and math.huge or now + max_wait_ms
local tag = enter_lane(id, job)
count_waiting(job, 1)
redis.call('HSET', NAMES.job .. id, 'facts', facts .. '}', 'spec', spec, 'body', body, 'owners', owner,
  'state', 'waiting', 'attempt', '', 'tries', 0, 'cancelled', '', 'tag', tag, 'deadline', deadline)
if apart then redis.call('PEXPIRE', body_key, life_ms) end
if limits[1] and not is_line(sink) then charge(id, limits, tokens, now, life_ms, deadline, ahead >= open, rates) end
redis.call('PEXPIRE', NAMES.job .. id, life_ms)
if key ~= '' then redis.call('SET', key, id .. ' ' .. body_hash, 'PX', life_ms) end
redis.call('ZADD', NAMES.waits .. model, deadline, id)
if owner ~= '' then redis.call('SADD', NAMES.owned .. owner, id) end
-- A full running set needs no ticket: the slot that ends takes the next job by itself. Nor does a busy worker that has
-- just promised to look again within milliseconds: a ticket costs more than everything else a short job needs.
if open > 0 then
  if not stands(NAMES.awake .. model, PROMISE_MS) then push_ticket(queue, ticket, id, live) end
elseif ahead == 0 and room and room[4] and has_word(room[4], 'starting') then
  push_ticket(queue, ticket, id, live)  -- nobody may look for its backend, or it may sleep
elseif people_first and lane ~= 'batch' and redis.call('SCARD', NAMES.batch_running .. model) > 0 then
  redis.call('PUBLISH', NAMES.crowd, 'w ' .. model)
end
-- Only who must wait is told where it stands; whom a free slot takes at once pays nothing for it. Where few jobs run, what
-- they tell of the line is as fresh as the place: a new request often comes just as slots change hands.
local before, line = -1, {}
if ahead >= open and owner ~= '' then
  local tell = line_teller()
  local lanes = tell.lanes_now(model, concurrency, people_first and concurrency or batch_reserve)
  before = tell.jobs_before(id, model, lane, lanes, tell.weights_of(weights_text))
  line = tell.line_now(model, now, RUNNING_FEW)
end
return {'ok', ahead, now, rates, breach, '', before, line}
