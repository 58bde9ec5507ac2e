"use strict";
// Keeps the waiting page up to date, and goes on when the server is ready or has ended.
const page = document.getElementById("wait");

function show(id, text) {
  const place = document.getElementById(id);
  const inner = place.firstElementChild || place;
  place.hidden = !text;
  if (inner.textContent !== (text || "")) inner.textContent = text || "";
}

const news = new EventSource(page.dataset.progress);
news.onmessage = (event) => {
  const server = JSON.parse(event.data);
  if (server.ready) {
    news.close();
    location.replace(page.dataset.wanted || server.url);
  } else if (server.failed) {
    news.close();
    setTimeout(() => location.reload(), 500);
  } else {
    show("title", server.title);
    show("message", server.message);
    show("native", server.native_reason);
    show("starts", server.starts ? new Date(server.starts).toLocaleString() : "");
    document.getElementById("progress").value = server.progress;
  }
};
// The browser connects again by itself; after a refusal it does not, and the page says why.
news.onerror = () => {
  if (news.readyState === EventSource.CLOSED) setTimeout(() => location.reload(), 3000);
};
