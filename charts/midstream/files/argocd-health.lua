-- Health of a Pipeline for Argo CD. In argocd-cm, under resource.customizations.health.midstream.dev_Pipeline.
--
-- Degraded says nothing about answers: the version that served before goes on serving; the condition Available tells.
local status = obj.status or {}
-- What is said about an earlier generation says nothing about this one.
if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "waits for the operator to look at this generation"}
end

local conditions = {}
for _, condition in ipairs(status.conditions or {}) do
  conditions[condition.type] = condition
end

local function is(kind, value)
  return conditions[kind] ~= nil and conditions[kind].status == value
end

local function health(verdict, kind)
  local condition = conditions[kind]
  local message = condition.message or ""
  if condition.reason ~= nil and condition.reason ~= "" then
    message = condition.reason .. ": " .. message
  end
  return {status = verdict, message = message}
end

if is("Stalled", "True") then
  return health("Degraded", "Stalled")
end
if is("Reconciling", "True") then
  return health("Progressing", "Reconciling")
end
if is("Ready", "True") then
  return health("Healthy", "Ready")
end
if is("Ready", "False") then
  return health("Degraded", "Ready")
end
return {status = "Progressing", message = "waits for the first engines"}
