-- predict.lua at a pace: wrk ... -s paced.lua URL -- BYTES HEADERS MEAN_DELAY_MS
local here = debug.getinfo(1, "S").source:match("@?(.*/)") or "./"
dofile(here .. "predict.lua")
local start, mean = init, 1

function init(args)
  start(args)
  mean = tonumber(args[3]) or 1
end

function delay()
  return math.random(0, 2 * mean)
end
