// Buttons that copy the code beside them. Without this script there are none.
for (const button of document.querySelectorAll('[data-copy]')) {
  const source = button.parentElement.querySelector('code');
  if (!source || !navigator.clipboard) continue;
  button.hidden = false;
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(source.textContent);
    const before = button.textContent;
    button.textContent = 'Copied';
    setTimeout(() => { button.textContent = before; }, 1500);
  });
}
