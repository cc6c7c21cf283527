-- Made by Ansible, edits are lost.
-- Lets a client of Redis wait while nobody leads, for as long as it takes to choose another one, instead of failing. More than one leads while HAProxy has
-- just begun, and has not asked anybody yet; and one that has died a moment ago is still said to, so that it is asked whether it can be reached.
local LONGEST, PAUSE = 20, 0.1

local function is_there()
  local leader
  for _, server in pairs(core.backends["throat_redis_leader"].servers) do
    if server:get_stats()["status"]:find("^UP") then
      if leader then return false end
      leader = server
    end
  end
  if not leader then return false end
  local address, port = leader:get_addr():match("^(.*):(%d+)$")
  local connection = core.tcp()
  connection:settimeout(2)
  local connected = connection:connect(address:gsub("[%[%]]", ""), tonumber(port))
  connection:close()
  return connected
end

core.register_action("throat_wait", { "tcp-req" }, function()
  local ends = core.now().sec + LONGEST
  while not is_there() and core.now().sec < ends do
    core.msleep(PAUSE * 1000)
  end
end)
