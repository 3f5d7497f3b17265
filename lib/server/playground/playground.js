// One prompt under several models side by side, each by a stream of its own. What a model says enters the page as text,
// never as markup.
const MOST_COLUMNS = 6;
const KEY = 'neox-prefix-key';
const NUMBERS = ['max_tokens', 'temperature', 'top_p', 'top_k', 'repetition_penalty'];

const at = (id) => document.getElementById(id);
const columns = [];
let models = [];
let running = 0;
let seed = 0;

function headers() {
  const key = sessionStorage.getItem(KEY);
  return key === null ? {} : { authorization: `Bearer ${key}` };
}

/** The reason that the server gives for a refusal. */
async function reasonOf(response) {
  if (response.status === 401) at('key-row').hidden = false;
  const text = await response.text();
  try {
    const { error } = JSON.parse(text);
    return error.message ?? String(error);
  } catch {
    return `${response.status} ${response.statusText}`.trim();
  }
}

function say(text) {
  at('message').textContent = text;
}

async function loadModels() {
  try {
    const response = await fetch('v1/models', { headers: headers() });
    if (!response.ok) {
      say(await reasonOf(response));
      return;
    }
    models = (await response.json()).data.map(({ id }) => id);
  } catch {
    say('The server cannot be reached.');
    return;
  }
  say('');
  const prefixes = models.length - 1;
  at('server').textContent = `${models[0]}, and ${prefixes} ${prefixes === 1 ? 'prefix' : 'prefixes'} over it`;
  if (columns.length === 0) for (const model of models.slice(0, 3)) addColumn(model);
  for (const column of columns) fillModels(column, column.select.value);
}

function fillModels({ select }, chosen) {
  select.replaceChildren(...models.map((model) => new Option(model, model, false, model === chosen)));
}

function addColumn(model) {
  const root = at('column').content.cloneNode(true).firstElementChild;
  const find = (selector) => root.querySelector(selector);
  const column = {
    root,
    select: find('select'),
    text: find('.text'),
    choices: find('.choices'),
    tokens: find('.tokens'),
    rate: find('.rate'),
    first: find('.first'),
    finish: find('.finish'),
    controller: undefined,
  };
  fillModels(column, model);
  find('.remove').addEventListener('click', () => {
    column.controller?.abort();
    columns.splice(columns.indexOf(column), 1);
    root.remove();
    showState();
  });
  columns.push(column);
  at('columns').append(root);
  showState();
}

function showState() {
  at('generate').disabled = running > 0 || columns.length === 0;
  at('stop-all').disabled = running === 0;
  at('add').disabled = columns.length >= MOST_COLUMNS;
}

/** What all columns are asked, but for the model. */
function settings() {
  const body = { prompt: at('prompt').value };
  for (const name of NUMBERS) {
    const { value } = at(name);
    if (value !== '') body[name] = Number(value);
  }
  body.seed = seed;
  if (at('stop').value !== '') body.stop = [at('stop').value];
  if (at('logprobs').checked) body.logprobs = 3;
  return body;
}

/** One seed for all columns: the one that is given, else one that is drawn and shown. */
function drawSeed() {
  const given = at('seed').value;
  seed = given === '' ? Math.floor(Math.random() * 2 ** 31) : Number(given);
  at('seed').placeholder = given === '' ? `random: ${seed}` : 'random';
}

async function generate() {
  if (running > 0 || columns.length === 0) return;
  say('');
  drawSeed();
  const body = settings();
  running = columns.length;
  showState();
  await Promise.all(
    columns.map(async (column) => {
      try {
        await run(column, { model: column.select.value, ...body });
      } finally {
        running--;
        showState();
      }
    }),
  );
}

async function run(column, body) {
  const { text } = column;
  const controller = (column.controller = new AbortController());
  for (const part of ['tokens', 'rate', 'first', 'finish']) column[part].textContent = '–';
  column.choices.hidden = true;
  text.replaceChildren(span('prompt', body.prompt));
  text.setAttribute('aria-busy', 'true');
  const count = { tokens: 0, started: performance.now(), first: undefined };
  try {
    const response = await fetch('v1/completions', {
      method: 'POST',
      headers: { 'content-type': 'application/json', ...headers() },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal: controller.signal,
    });
    if (!response.ok) throw new Error(await reasonOf(response));
    for await (const event of eventsOf(response)) take(column, event, count);
  } catch (error) {
    if (controller.signal.aborted) column.finish.textContent = 'stopped';
    else text.append(span('error', `${error.message}`));
  } finally {
    text.setAttribute('aria-busy', 'false');
    measure(column, count);
  }
}

/** The events of a stream as they come. */
async function* eventsOf(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    const events = (rest + value).split('\n\n');
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith('data: ')) continue;
      const data = event.slice(6);
      if (data === '[DONE]') return;
      yield JSON.parse(data);
    }
  }
}

function take(column, { error, choices: [choice] = [], usage }, count) {
  if (error !== undefined && error !== null) throw new Error(error.message);
  if (usage) count.tokens = usage.completion_tokens;
  if (choice === undefined) return;
  const { text, logprobs, finish_reason: finish } = choice;
  count.first ??= performance.now();
  if (logprobs?.tokens) count.tokens += logprobs.tokens.length;
  if (text !== '') column.text.append(tokenSpan(column, text, logprobs));
  if (finish) column.finish.textContent = finish;
  measure(column, count);
}

function span(name, text) {
  const element = document.createElement('span');
  element.className = name;
  element.textContent = text;
  return element;
}

/** Text with its probability as a shade; a touch or the pointer shows what else could have come. */
function tokenSpan(column, text, logprobs) {
  const element = span('token', text);
  const last = logprobs?.token_logprobs?.at(-1);
  if (typeof last !== 'number') return element;
  element.style.setProperty('--shade', String(0.06 + 0.5 * Math.exp(last)));
  const percent = (logprob) => `${(100 * Math.exp(logprob)).toFixed(1)} %`;
  const others = Object.entries(logprobs.top_logprobs?.at(-1) ?? {}).sort(([, a], [, b]) => b - a);
  const show = () => {
    const list = others.map(([token, logprob]) => `${token.trim() === '' ? '␣' : token} ${percent(logprob)}`);
    column.choices.textContent = list.length > 0 ? list.join('   ') : percent(last);
    column.choices.hidden = false;
  };
  element.addEventListener('pointerenter', show);
  element.addEventListener('click', show);
  return element;
}

function measure(column, { tokens, started, first }) {
  if (first === undefined) return;
  column.first.textContent = String(Math.round(first - started));
  if (tokens === 0) return;
  column.tokens.textContent = String(tokens);
  const seconds = (performance.now() - started) / 1000;
  column.rate.textContent = (tokens / seconds).toFixed(tokens / seconds < 10 ? 1 : 0);
}

function stopAll() {
  for (const { controller } of columns) controller?.abort();
}

/** The request of the first column, to be repeated elsewhere. Keys stay here. */
function request() {
  return { model: columns[0]?.select.value ?? models[0] ?? '', ...settings() };
}

function curl() {
  const body = JSON.stringify(request()).replaceAll("'", `'\\''`);
  const key = sessionStorage.getItem(KEY) === null ? '' : ` \\\n  -H "authorization: Bearer $KEY"`;
  const url = new URL('v1/completions', location.href);
  return `curl ${url} \\\n  -H 'content-type: application/json'${key} \\\n  -d '${body}'`;
}

function typescript() {
  const base = new URL('v1', location.href);
  return `import OpenAI from 'openai';

const client = new OpenAI({ baseURL: ${JSON.stringify(base)}, apiKey: process.env.KEY ?? 'none' });
const body = ${JSON.stringify(request(), undefined, 2)};
const { choices } = await client.completions.create(body);
console.log(choices[0]?.text);
`;
}

async function copy(button, text) {
  const label = button.textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = 'Copied';
  } catch {
    // Pages that are neither of this machine nor by https have no clipboard.
    say(text);
  }
  setTimeout(() => (button.textContent = label), 1500);
}

at('form').addEventListener('submit', (event) => {
  event.preventDefault();
  void generate();
});
at('stop-all').addEventListener('click', stopAll);
at('add').addEventListener('click', () => addColumn(models[columns.length % Math.max(1, models.length)]));
at('copy-curl').addEventListener('click', (event) => void copy(event.target, curl()));
at('copy-typescript').addEventListener('click', (event) => void copy(event.target, typescript()));
at('use-key').addEventListener('click', () => {
  sessionStorage.setItem(KEY, at('key').value);
  void loadModels();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape') stopAll();
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) void generate();
});
void loadModels();
