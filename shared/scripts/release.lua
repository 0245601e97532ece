-- Gives running jobs up without an event of theirs.
--
--   how       what becomes of a running job
--   end       (none): it was cancelled
--   away      waiting where it stood, uncounted, if another worker lives (a batch's line always); else 'n': keep it
--   hold      waiting where it stood, uncounted, as long as it would have: no backend of its model was there
--   again     waiting where it stood, counted; ended with `wire` after its last try
--   fail      ended with `wire`
--
-- A cancelled job ends, whatever is asked; `ending` says what its worker knows of its usage, as JSON.
-- What has published cannot run again: 'p' for away, ended with `wire` for again and hold.
-- Returns one letter a job: 'e' ended, 'f' ended and told, 'b' back in the room, 'p', 'n', 's' stale, 'u' unknown.
local now = clock()
local out = {}

local function others_live(model)
  local others = live_workers(model, now, LIVE_WORKER_MS)
  local seen = tonumber(redis.call('ZSCORE', NAMES.workers .. model, worker) or -1)
  if seen >= now - LIVE_WORKER_MS then others = others - 1 end
  return others > 0
end

local function release(id, job, how, wire, ending)
  if job.cancelled or how == 'end' then
    local ok, told = pcall(cjson.decode, ending)
    local is_told = end_cancelled(id, job, ok and type(told) == 'table' and told or nil)
    count_ends(job.model, now, 1, held_ms(job, now))
    return is_told and 'f' or 'e'
  end
  local published = redis.call('LLEN', NAMES.log .. id) > 0
  if how == 'away' then
    if published then return 'p' end
    if not is_line(job.sink) and not others_live(job.model) then return 'n' end
    wait_again(id, job, now, math.max(0, job.tries - 1))
    return 'b'
  end
  if how == 'hold' and not published then
    wait_again(id, job, now, math.max(0, job.tries - 1), true)
    return 'b'
  end
  if how == 'again' and not published and job.tries < job.max_tries then
    wait_again(id, job, now, job.tries)
    return 'b'
  end
  fail(id, job, wire)
  count_ends(job.model, now, 1, held_ms(job, now))
  return 'f'
end

for id, attempt, how, wire, ending in rows() do
  local job = load_job(id)
  local letter
  if not job then letter = 'u'
  elseif job.attempt ~= attempt or job.state ~= 'running' then letter = 's'
  else letter = release(id, job, how, wire, ending) end
  out[#out + 1] = letter
  if job and how ~= 'hold' and redis.call('EXISTS', NAMES.waits .. job.model) == 1 then
    push_ticket(queue, ticket, id, live_workers(job.model, now, LIVE_WORKER_MS))
  end
end
publish_frames()
return table.concat(out)
