"use strict";
/* Loads the page again once it answers. It is left alone until then: a network that is away takes nothing. */
const seconds = Number(document.body.dataset.again);
async function look() {
  try {
    const answer = await fetch(location.href, {method: "HEAD", redirect: "manual", cache: "no-store"});
    if (![408, 429, 502, 503, 504].includes(answer.status)) {
      /* What a form has sent is not sent again: that would be so with reload(). */
      if (location.hash) location.reload(); else location.replace(location.href);
      return;
    }
  } catch { /* The network is away: later. */ }
  setTimeout(look, 1000 * seconds);
}
setTimeout(look, 1000 * seconds);
