-- Stands in for the associations of slurmdbd: an account is refused unless it is the user's.
local accounts = { alice = { proj1 = true }, bob = { proj2 = true } }

function slurm_job_submit(job, partitions, uid)
  local account = job.account
  if account ~= nil and account ~= "" and not (accounts[job.user_name or ""] or {})[account] then
    slurm.log_user("account '%s' is not yours", account)
    return 2045 -- ESLURM_INVALID_ACCOUNT
  end
  return slurm.SUCCESS
end

function slurm_job_modify(job, record, partitions, uid)
  return slurm.SUCCESS
end

return slurm
