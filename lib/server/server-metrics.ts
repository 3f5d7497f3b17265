import { createRequire } from 'node:module';
import type * as Prom from 'prom-client';
import type { Counter, Gauge, Histogram, Registry } from 'prom-client';
import type { RequestTiming } from '../engine/job';
import type { Outcome, Recorder, Service } from './service';

type PromClient = typeof Prom;

/** More models than these have one label together: each label is a series of its own wherever metrics are kept. */
const MOST_MODELS = 200;
const OTHER = 'other';

const SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120];

/** The metrics of a server, in a registry of their own. */
export class ServerMetrics implements Recorder {
  private readonly registry: Registry;
  private readonly outcomes = new Map<string, Map<Outcome, number>>();
  private readonly http: Counter;
  private readonly ttft: Histogram[];
  private readonly between: Histogram[];
  private readonly whole: Histogram[];
  private readonly queue: Histogram[];
  private requests = 0;
  private seconds = 0;

  private constructor(
    private readonly prom: PromClient,
    private readonly service: Service,
    names: 'own' | 'vllm',
  ) {
    this.registry = new prom.Registry();
    const isBoth = names === 'vllm';
    const { registry } = this;
    prom.collectDefaultMetrics({ register: registry });
    const labels = { model_name: service.baseName, engine: '0' };
    const gauge = (name: string, help: string, value: () => number, other?: string): void => {
      const make = (own: string, fixed?: Record<string, string>): Gauge =>
        new prom.Gauge({
          name: own,
          help,
          registers: [registry],
          ...(fixed && { labelNames: Object.keys(fixed) }),
          collect() {
            this.set(fixed ?? {}, value());
          },
        });
      make(name);
      if (isBoth && other !== undefined) make(other, labels);
    };
    const counter = (name: string, help: string, value: () => number, other?: string): void => {
      for (const own of isBoth && other !== undefined ? [name, other] : [name]) {
        const fixed = own === name ? {} : labels;
        new prom.Counter({
          ...{ name: own, help, registers: [registry], labelNames: Object.keys(fixed) },
          collect() {
            this.reset();
            this.inc(fixed, value());
          },
        });
      }
    };
    const histogram = (name: string, help: string, other: string): Histogram[] =>
      [name, ...(isBoth ? [other] : [])].map(
        (own) => new prom.Histogram({ name: own, help, buckets: SECONDS, registers: [registry] }),
      );
    const stats = () => service.engine.stats();
    gauge('neox_requests_running', 'Texts in the running batch', () => stats().running, 'vllm:num_requests_running');
    gauge('neox_requests_waiting', 'Texts that wait for room', () => stats().waiting, 'vllm:num_requests_waiting');
    const ratio = (): number => stats().kvReservedTokens / stats().kvBudgetTokens;
    gauge('neox_kv_reserved_ratio', 'Reserved part of the KV budget', ratio, 'vllm:kv_cache_usage_perc');
    gauge('neox_prefixes', 'Prefixes', () => service.prefixes?.list().length ?? 0);
    const bytes = (): number => (service.prefixes?.list() ?? []).reduce((sum, one) => sum + one.bytes, 0);
    gauge('neox_prefix_resident_bytes', 'Memory of prefixes', bytes);
    const hits = 'vllm:prefix_cache_hits_total';
    const queries = 'vllm:prefix_cache_queries_total';
    counter('neox_prompt_cache_hit_tokens_total', 'Tokens that the prompt cache had', () => stats().cachedTokens, hits);
    const asked = (): number => stats().cachedTokens + stats().promptTokens;
    counter('neox_prompt_cache_query_tokens_total', 'Tokens of prompts', asked, queries);
    counter('neox_engine_steps_total', 'Forward passes', () => stats().steps);
    counter('neox_native_seconds_total', 'Seconds that the model worked', () => stats().nativeSeconds);
    this.byModel('neox_prompt_tokens_total', 'Tokens of prompts', 'promptTokens', isBoth && 'vllm:prompt_tokens_total');
    const generated = isBoth && 'vllm:generation_tokens_total';
    this.byModel('neox_generated_tokens_total', 'Tokens that were generated', 'generatedTokens', generated);
    this.byOutcome('neox_requests_total');
    if (isBoth) this.byOutcome('vllm:request_success_total');
    this.http = new prom.Counter({
      ...{ name: 'neox_http_requests_total', help: 'Answers by route and status', registers: [registry] },
      labelNames: ['route', 'status'],
    });
    this.ttft = histogram('neox_ttft_seconds', 'Time to the first token', 'vllm:time_to_first_token_seconds');
    const gap = 'vllm:inter_token_latency_seconds';
    this.between = histogram('neox_inter_token_seconds', 'Mean time between the tokens of a text', gap);
    this.whole = histogram('neox_request_seconds', 'Time of a request', 'vllm:e2e_request_latency_seconds');
    this.queue = histogram('neox_queue_seconds', 'Time in the queue', 'vllm:request_queue_time_seconds');
  }

  /** Loads what it needs, which takes 50 ms and is not for those who only import the package. */
  static create(service: Service, names: 'own' | 'vllm'): ServerMetrics {
    return new ServerMetrics(createRequire(__filename)('prom-client') as PromClient, service, names);
  }

  /** Mean seconds of a request so far. */
  get meanSeconds(): number {
    return this.requests === 0 ? 1 : this.seconds / this.requests;
  }

  textEnded(model: string, outcome: Outcome): void {
    let own = this.outcomes.get(model);
    if (own === undefined) this.outcomes.set(model, (own = new Map<Outcome, number>()));
    own.set(outcome, (own.get(outcome) ?? 0) + 1);
  }

  timed({ queuedSeconds, prefillSeconds, decodeSeconds }: RequestTiming, tokens: number): void {
    const seconds = queuedSeconds + prefillSeconds + decodeSeconds;
    this.requests++;
    this.seconds += seconds;
    for (const one of this.queue) one.observe(queuedSeconds);
    for (const one of this.ttft) one.observe(queuedSeconds + prefillSeconds);
    for (const one of this.whole) one.observe(seconds);
    if (tokens > 1) for (const one of this.between) one.observe(decodeSeconds / (tokens - 1));
  }

  answered(route: string, status: number): void {
    this.http.inc({ route, status });
  }

  get contentType(): string {
    return this.registry.contentType;
  }

  text(): Promise<string> {
    return this.registry.metrics();
  }

  /** What a model is called in a label: the first ones by their names. A name that is no model is never one. */
  private labels(): (name: string) => string | undefined {
    const { service } = this;
    const names = service.prefixes?.list().map(({ name }) => name) ?? [];
    const known = new Set([service.baseName, ...names.slice(0, MOST_MODELS - 1)]);
    const all = new Set(names);
    return (name) => (known.has(name) ? name : all.has(name) ? OTHER : undefined);
  }

  private byModel(name: string, help: string, of: 'promptTokens' | 'generatedTokens', other: string | false): void {
    const { service } = this;
    const labels = (): ((name: string) => string | undefined) => this.labels();
    for (const own of other === false ? [name] : [name, other]) {
      const label = own === name ? 'model' : 'model_name';
      new this.prom.Counter({
        ...{ name: own, help, registers: [this.registry], labelNames: [label] },
        collect() {
          this.reset();
          const labelOf = labels();
          for (const use of service.engine.stats().prefixes) {
            const model = labelOf(use.prefix ?? service.baseName);
            if (model !== undefined) this.inc({ [label]: model }, use[of]);
          }
        },
      });
    }
  }

  private byOutcome(name: string): void {
    const { outcomes } = this;
    const labels = (): ((name: string) => string | undefined) => this.labels();
    const isOwn = name.startsWith('neox');
    const [label, reason] = isOwn ? ['model', 'outcome'] : ['model_name', 'finished_reason'];
    new this.prom.Counter({
      ...{ name, help: 'Texts by how they ended', registers: [this.registry], labelNames: [label, reason] },
      collect() {
        this.reset();
        const labelOf = labels();
        for (const [model, own] of outcomes) {
          const called = labelOf(model);
          // The series of what was removed go with it.
          if (called === undefined) outcomes.delete(model);
          else for (const [outcome, count] of own) this.inc({ [label]: called, [reason]: outcome }, count);
        }
      },
    });
  }
}
