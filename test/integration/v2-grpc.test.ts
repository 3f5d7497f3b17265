import * as grpc from '@grpc/grpc-js';
import type { NeoXPrefixError } from '../../lib/base/errors';
import { grpcServices } from '../../lib/inference-protocol/grpc-service';
import { V2Grpc } from '../../lib/server/v2/v2-grpc';
import { TritonClient } from '../../lib/triton-client/client';
import { failureOf } from '../helpers';
import { MAX_BYTES, until, V2Server } from './v2-helpers';

let server: V2Server;
beforeAll(async () => {
  server = await V2Server.start(undefined, { maxRows: 4, maxQueue: 4 });
});
afterAll(() => server.stop());

const TEXT = '今日は友達と';
const errorOf = async (action: Promise<unknown>): Promise<NeoXPrefixError> =>
  (await failureOf(action)) as NeoXPrefixError;

const { inference, health } = grpcServices();
const connect = (): grpc.Client => new grpc.Client(server.urls.grpc.slice(7), grpc.credentials.createInsecure());
type Method = grpc.MethodDefinition<object, Record<string, unknown>>;
const call = (client: grpc.Client, method: Method, message: object, metadata = new grpc.Metadata()) =>
  new Promise<Record<string, unknown>>((resolve, reject) => {
    client.makeUnaryRequest(
      method.path,
      method.requestSerialize,
      method.responseDeserialize,
      message,
      metadata,
      (error, answer) => (error ? reject(error) : resolve(answer!)),
    );
  });

it('streams go on side by side, and a request that fails does not end them', async () => {
  const { text } = await server.model.generate(TEXT, { maxNewTokens: 6, temperature: 0, prefix: server.smile });
  const client = connect();
  const method = inference['ModelStreamInfer'] as Method;
  const stream = client.makeBidiStreamRequest(method.path, method.requestSerialize, method.responseDeserialize);
  const request = (id: string, model: string, more: Record<string, unknown> = {}): object => ({
    model_name: model,
    id,
    inputs: [{ name: 'text_input', datatype: 'BYTES', shape: [1], contents: { bytes_contents: [Buffer.from(TEXT)] } }],
    parameters: { max_tokens: { int64_param: 6 }, temperature: { double_param: 0 }, ...more },
  });
  stream.write(request('a', 'smile'));
  stream.write(request('b', 'frown'));
  stream.write(request('c', 'smile', { triton_enable_empty_final_response: { bool_param: true } }));
  stream.write(request('d', 'smile', { stream: { bool_param: false } }));
  stream.end();
  type Answer = {
    id: string;
    outputs: unknown[];
    raw_output_contents: Buffer[];
    parameters: Record<string, { bool_param: boolean }>;
  };
  const answers: Record<string, Answer[]> = {};
  const errors: string[] = [];
  for await (const message of stream) {
    const { error_message: error, infer_response: response } = message as {
      error_message: string;
      infer_response: Answer;
    };
    if (error !== '') errors.push(`${response.id}: ${error}`);
    else (answers[response.id] ??= []).push(response);
  }
  expect(errors).toEqual(["b: Request for unknown model: 'frown' is not found"]);
  const joined = (id: string): string =>
    answers[id]!.map(({ raw_output_contents: [first] }) => first?.subarray(4).toString() ?? '').join('');
  const finals = (id: string): boolean[] =>
    answers[id]!.map((one) => one.parameters['triton_final_response']!.bool_param);
  expect([joined('a'), joined('c'), joined('d')]).toEqual([text, text, text]);
  expect(finals('a')).toEqual([false, false, false, false, false, false, true]);
  expect(answers['c']!.at(-1)!.outputs).toEqual([]);
  expect(finals('c').lastIndexOf(false)).toBe(6);
  expect(finals('d')).toEqual([true]);
  client.close();
});

it('a stream that is cancelled frees its row', async () => {
  const client = connect();
  const method = inference['ModelStreamInfer'] as Method;
  const stream = client.makeBidiStreamRequest(method.path, method.requestSerialize, method.responseDeserialize);
  stream.on('error', () => undefined);
  stream.write({
    model_name: 'base',
    inputs: [{ name: 'input_ids', datatype: 'INT32', shape: [2], contents: { int_contents: [5, 6] } }],
    parameters: { max_tokens: { int64_param: 4000 }, ignore_eos: { bool_param: true } },
  });
  await new Promise((resolve) => stream.once('data', resolve));
  stream.cancel();
  await until(() => server.engine.stats().running === 0);
  client.close();
});

it('health checks need no key, calls do', async () => {
  server.access = (authorization, isAdmin) =>
    authorization === undefined ? 'unknown' : isAdmin && authorization !== 'Bearer admin' ? 'forbidden' : 'allowed';
  const client = connect();
  const check = health['Check'] as Method;
  expect(await call(client, check, { service: '' })).toEqual({ status: 'SERVING' });
  server.ready = false;
  expect(await call(client, check, {})).toEqual({ status: 'NOT_SERVING' });
  server.ready = true;
  await expect(call(client, check, { service: 'x' })).rejects.toMatchObject({ code: grpc.status.NOT_FOUND });
  for (const name of Object.keys(inference).filter((each) => each !== 'ModelStreamInfer')) {
    const refused = call(client, inference[name] as Method, {});
    await expect(refused).rejects.toMatchObject({ code: grpc.status.UNAUTHENTICATED });
  }
  const metadata = new grpc.Metadata();
  metadata.set('authorization', 'Bearer key');
  expect(await call(client, inference['ServerLive'] as Method, {}, metadata)).toEqual({ live: true });
  const load = call(client, inference['RepositoryModelLoad'] as Method, { model_name: 'x' }, metadata);
  await expect(load).rejects.toMatchObject({ code: grpc.status.PERMISSION_DENIED });
  const method = inference['ModelStreamInfer'] as Method;
  const stream = client.makeBidiStreamRequest(method.path, method.requestSerialize, method.responseDeserialize);
  const error = await new Promise((resolve) => stream.on('error', resolve));
  expect(error).toMatchObject({ code: grpc.status.UNAUTHENTICATED });
  client.close();
  server.access = () => 'allowed';
});

it('what is not there is not implemented', async () => {
  const client = connect();
  const live = inference['ServerLive'] as Method;
  const shared = { ...live, path: '/inference.GRPCInferenceService/SystemSharedMemoryStatus' };
  await expect(call(client, shared, {})).rejects.toMatchObject({ code: grpc.status.UNIMPLEMENTED });
  client.close();
});

it('a message beyond the bound is refused', async () => {
  const triton = new TritonClient(server.urls.grpc, { model: 'base' });
  const data = new Int32Array(MAX_BYTES / 4 + 10);
  const error = await errorOf(
    triton.infer({ inputs: { input_ids: { datatype: 'INT32', data, shape: [data.length] } } }),
  );
  expect(error.status).toBe('RESOURCE_EXHAUSTED');
  await triton.close();
});

it('a port that is taken is told', async () => {
  // gRPC tells it on stderr, too.
  grpc.setLogVerbosity(grpc.logVerbosity.NONE);
  const port = Number(new URL(server.urls.grpc).port);
  const options = { host: '127.0.0.1', port, maxBytes: 1, access: () => 'allowed' as const };
  const error = await errorOf(V2Grpc.listen({ host: {} } as never, options));
  expect([error.code, error.message]).toEqual(['NEOX_IO', expect.stringContaining(`127.0.0.1:${port}`)]);
});
