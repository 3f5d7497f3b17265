import type { EventOf } from './history';
import { type Html, markup } from './html';
import { count } from './tables';

type Sample = EventOf<'samples'>['samples'][number];

/** What the model wrote before and after, prompt by prompt. Any of it may be anything. */
export function samplePairs(events: readonly EventOf<'samples'>[]): Html | undefined {
  const [first, last] = [events[0], events.at(-1)];
  if (first === undefined || last === undefined || last.samples.length === 0) return undefined;
  const label = ({ step }: EventOf<'samples'>): string => (step === 0 ? 'before training' : `step ${count(step)}`);
  return markup`${last.samples.map((sample, i) => {
    const before = first === last ? undefined : first.samples[i];
    const texts = [
      ...(before === undefined || before.prompt !== sample.prompt ? [] : [text(label(first), before)]),
      text(label(last), sample),
    ];
    return card(sample.prompt, texts);
  })}`;
}

/** What each run's prefix writes to the prompts that they share. */
export function comparedSamples(
  runs: readonly { name: string; samples: readonly EventOf<'samples'>[] }[],
): Html | undefined {
  const last = runs.map(({ name, samples }) => ({ name, samples: samples.at(-1)?.samples ?? [] }));
  const prompts = [...new Set(last.flatMap(({ samples }) => samples.map(({ prompt }) => prompt)))];
  const shared = prompts.map((prompt) => ({
    prompt,
    texts: last.flatMap(({ name, samples }) =>
      samples.filter((sample) => sample.prompt === prompt).map((sample) => text(name, sample)),
    ),
  }));
  const shown = shared.filter(({ texts }) => texts.length > 1);
  return shown.length === 0 ? undefined : markup`${shown.map(({ prompt, texts }) => card(prompt, texts))}`;
}

function card(prompt: string, texts: readonly Html[]): Html {
  const shown =
    prompt === '' ? markup`<p class="note">no prompt</p>` : markup`<p class="text" dir="auto">${prompt}</p>`;
  return markup`<section class="card sample">
    <div class="prompt"><span class="label">prompt</span>${shown}</div>
    <div class="texts">${texts}</div>
  </section>`;
}

function text(label: string, sample: Sample): Html {
  return markup`<div>
    <span class="label">${label}<span class="tag">${sample.finishReason}</span></span>
    <p class="text" dir="auto">${sample.text}</p>
  </div>`;
}
