// Keeps the numbers of the network fresh while the page is looked at.
const tiles = document.querySelectorAll('[data-live]');
const spans = { first_piece_ms: (ms) => (ms ? ms.toLocaleString('en') : '–') };
const plain = (value) => value.toLocaleString('en');

async function refresh() {
  if (document.hidden) return;
  try {
    const answer = await fetch('/dashboard/live.json', { credentials: 'omit' });
    if (!answer.ok) return;
    const numbers = await answer.json();
    for (const tile of tiles) {
      const value = numbers[tile.dataset.live];
      const text = (spans[tile.dataset.live] || plain)(value);
      if (tile.textContent !== text) tile.textContent = text;
    }
  } catch {
    // The gateway is away for a moment: the last numbers stay.
  }
}

if (tiles.length) setInterval(refresh, 5000);
