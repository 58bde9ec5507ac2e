"use strict";
// Says so where the network lets pages through but no WebSockets: notebooks and terminals need them.
{
  const notice = document.getElementById("no-websockets"), end = Date.now() + 5000;
  let through = false;

  function attempt() {
    const socket = new WebSocket(notice.dataset.socket);
    socket.onmessage = () => { through = true; };
    // The hub may just be starting: until the time is up it is tried again.
    socket.onclose = () => { if (!through && Date.now() < end) setTimeout(attempt, 1000); };
  }

  async function judge() {
    if (through) return;
    try {
      const answer = await fetch(notice.dataset.health, {cache: "no-store"});
      notice.hidden = through || !answer.ok;
    } catch { /* The network is away: it is not WebSockets that it blocks. */ }
  }

  attempt();
  setTimeout(judge, 5000);
}
