// The playground: asks the gateway as an app would, with this browser's session in place of a key.
const proof = document.body.dataset.proof;

async function ask(path, body, signal) {
  const answer = await fetch('/dashboard/playground/' + path, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'X-Form-Proof': proof, 'X-Title': 'Playground' },
    body: JSON.stringify(body),
    signal,
  });
  if (answer.ok) return answer;
  let text = `The gateway answered ${answer.status}.`;
  try {
    const { error } = await answer.json();
    text = typeof error === 'string' ? error : error.message;
  } catch { /* not JSON: the status has to do */ }
  throw new Error(text);
}

async function* events(answer) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    const lines = rest.split('\n');
    rest = lines.pop();
    for (const line of lines) if (line.startsWith('data: ')) yield line.slice(6);
  }
}

function panel(name, work) {
  const form = document.querySelector(`[data-play="${name}"]`);
  if (!form) return;
  const go = form.querySelector('[type=submit]');
  const stop = form.querySelector('[data-stop]');
  const status = form.querySelector('[role=status]');
  let running = null;
  stop?.addEventListener('click', () => running?.abort());
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    if (running) return;
    running = new AbortController();
    go.disabled = true;
    if (stop) stop.hidden = false;
    status.className = 'quiet small';
    status.textContent = 'Working…';
    const began = performance.now();
    try {
      status.textContent = await work(form, running.signal, began);
    } catch (error) {
      const stopped = error.name === 'AbortError';
      status.className = stopped ? 'quiet small' : 'wrong';
      status.textContent = stopped ? 'Stopped.' : error.message;
    } finally {
      running = null;
      go.disabled = false;
      if (stop) stop.hidden = true;
    }
  });
}

const seconds = (from) => ((performance.now() - from) / 1000).toFixed(1) + ' s';
const talk = document.querySelector('[data-talk]');
let messages = [];

function say(kind, text) {
  const element = document.createElement('div');
  element.className = 'said ' + kind;
  element.textContent = text;
  talk.append(element);
  talk.scrollTop = talk.scrollHeight;
  return element;
}

document.querySelector('[data-clear]')?.addEventListener('click', () => {
  messages = [];
  talk.replaceChildren();
});

panel('chat', async (form, signal, began) => {
  const input = form.elements.message;
  const text = input.value.trim();
  if (!text) throw new Error('Write something first.');
  const asked = [...messages, { role: 'user', content: text }];
  if (form.elements.system.value.trim()) asked.unshift({ role: 'system', content: form.elements.system.value.trim() });
  say('me', text);
  input.value = '';
  const shown = say('it', '');
  let said = '';
  let first = null;
  let tokens = null;
  let finished = false;
  try {
    const answer = await ask('chat', {
      model: form.elements.model.value,
      messages: asked,
      temperature: Number(form.elements.temperature.value),
      stream: true,
      stream_options: { include_usage: true },
    }, signal);
    for await (const data of events(answer)) {
      if (data === '[DONE]') { finished = true; break; }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(typeof chunk.error === 'string' ? chunk.error : chunk.error.message);
      if (chunk.usage) tokens = chunk.usage.completion_tokens;
      const delta = chunk.choices?.[0]?.delta?.content;
      if (!delta) continue;
      first ??= seconds(began);
      said += delta;
      shown.textContent = said;
      talk.scrollTop = talk.scrollHeight;
    }
    if (!finished) throw new Error('The answer broke off.');
  } finally {
    if (said) messages.push({ role: 'user', content: text }, { role: 'assistant', content: said });
    else shown.remove();
  }
  document.querySelector('[data-spoken]').textContent = said;
  return `First token after ${first ?? '–'}, whole after ${seconds(began)}` + (tokens ? `, ${tokens} tokens.` : '.');
});

panel('embeddings', async (form, signal, began) => {
  const answer = await ask('embeddings', { model: form.elements.model.value, input: form.elements.input.value }, signal);
  const body = await answer.json();
  const vector = body.data[0].embedding;
  const shown = document.querySelector('[data-vector]');
  const head = vector.slice(0, 8).map((value) => value.toFixed(4)).join(', ');
  shown.textContent = `${vector.length} dimensions\n[${head}, …]`;
  shown.hidden = false;
  return `${body.usage.prompt_tokens} tokens, ${seconds(began)}.`;
});

panel('speech', async (form, signal, began) => {
  const answer = await ask('speech', { text: form.elements.text.value, voice: form.elements.voice.value }, signal);
  const sound = await answer.blob();
  const player = document.querySelector('[data-sound]');
  if (player.src) URL.revokeObjectURL(player.src);
  player.src = URL.createObjectURL(sound);
  player.hidden = false;
  player.play().catch(() => { /* a browser may want a click first: the player has a button */ });
  return `${Math.round(sound.size / 1024)} KiB of sound, ${seconds(began)}.`;
});

panel('scrape', async (form, signal, began) => {
  const answer = await ask('scrape', { urls: [form.elements.url.value.trim()], format: 'markdown' }, signal);
  const [page] = (await answer.json()).results;
  if (!page.success) throw new Error(page.error);
  const shown = document.querySelector('[data-page]');
  shown.textContent = page.content;
  shown.hidden = false;
  return `${page.metadata.title ?? 'The page'}: ${page.content.length.toLocaleString('en')} characters, ${seconds(began)}.`;
});
