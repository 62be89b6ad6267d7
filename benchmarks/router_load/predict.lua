-- POSTs of a small JSON body for many users. wrk ... -s predict.lua URL -- BYTES HEADERS
local requests, turn = {}, 0

function init(args)
  local size = tonumber(args[1]) or 300
  local more = tonumber(args[2]) or 0
  local body = '{"instances": [[' .. string.rep("0", size - 19) .. ']]}'
  math.randomseed(20261)
  for user = 1, 1000 do
    local headers = { ["Content-Type"] = "application/json", ["x-user-id"] = "user-" .. math.random(1, 1000000) }
    for i = 1, more do headers["x-header-" .. i] = "a value as long as most of them are " .. i end
    requests[user] = wrk.format("POST", "/v1/models/churn:predict", headers, body)
  end
end

function request()
  turn = turn % 1000 + 1
  return requests[turn]
end
