-- Gives a batch's lease back, if it is the asker's still.
if redis.call('GET', NAMES.feeder .. batch) == feeder then return redis.call('DEL', NAMES.feeder .. batch) end
return 0
