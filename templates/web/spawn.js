"use strict";
// Narrows the form to what the chosen partition has. The gateway checks everything again.
const partition = document.getElementById("partition");

function narrow() {
  const limits = document.querySelector(`tr[data-partition="${CSS.escape(partition.value)}"]`);
  if (!limits) return;
  for (const row of document.querySelectorAll("tr[data-partition]")) {
    if (row === limits) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  for (const [name, most] of [["cores", limits.dataset.cores], ["gpus", limits.dataset.gpus]]) {
    const field = document.getElementById(name);
    if (field) field.max = most;
  }
  for (const [name, most] of [["walltime", limits.dataset.walltime], ["memory", limits.dataset.memory]]) {
    const help = document.getElementById(name + "-help");
    if (help) help.textContent = help.textContent.replace(/At most .*$/, `At most ${most}.`);
  }
}

if (partition) {
  partition.addEventListener("change", narrow);
  narrow();
}
