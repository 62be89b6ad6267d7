-- wrk: POST batches of outcomes, made ahead so that wrk itself costs little. Arguments: items in a batch.
local bodies, next_body = {}, 0

function init(args)
  local size = tonumber(args[1])
  local count = math.max(20, math.floor(2000 / size))
  math.randomseed(os.time())
  local function hex(digits)
    local out = {}
    for i = 1, digits do out[i] = string.format("%x", math.random(0, 15)) end
    return table.concat(out)
  end
  for b = 1, count do
    local items = {}
    for i = 1, size do
      items[i] = string.format(
        '{"id":"%s-%s-%s-%s-%s","unit":"user-%d","name":"purchase","value":%.2f,"at":%d}',
        hex(8), hex(4), hex(4), hex(4), hex(12), math.random(1, 1000000), math.random() * 100,
        os.time() - math.random(0, 3600))
    end
    local body = size == 1 and items[1] or '{"outcomes":[' .. table.concat(items, ",") .. ']}'
    bodies[b] = wrk.format("POST", "/api/v1/outcomes", {["Content-Type"] = "application/json"}, body)
  end
end

function request()
  next_body = next_body % #bodies + 1
  return bodies[next_body]
end
