-- Ends what `away` or `doze` began: a backend is there, or the sleep hook has ended. Wakes a worker where jobs wait.
redis.call('DEL', NAMES.dozing .. model)
if is_there then clear_hold(model, 'starting') end
if redis.call('EXISTS', NAMES.waits .. model) == 1 then
  push_ticket(queue, ticket, 'back-' .. clock(), live_workers(model, clock(), LIVE_WORKER_MS))
end
return 1
