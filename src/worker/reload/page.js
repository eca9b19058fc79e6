const mark = document.currentScript.dataset.mark;
async function look() {
  try {
    const answer = await fetch(location.href, { method: "HEAD", cache: "no-store" });
    if (answer.headers.get("Maypole-Reload") !== mark) { location.reload(); return; }
  } catch { /* The server restarts, or has ended. */ }
  setTimeout(look, 1000);
}
setTimeout(look, 1000);
