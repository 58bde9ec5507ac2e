"use strict";
// Shows points in time as the clock on the wall does, not in UTC.
for (const time of document.querySelectorAll("time[datetime]")) {
  const then = new Date(time.dateTime), today = new Date().toDateString() === then.toDateString();
  const day = today ? {} : {weekday: "short", day: "numeric", month: "short"};
  time.textContent = then.toLocaleString([], {...day, hour: "2-digit", minute: "2-digit"});
}
