// The same with node-llama-cpp.
//
//   node bench/first-token/llama.mjs MODEL.gguf THREADS
import { getLlama } from 'node-llama-cpp';

const [modelPath, threads] = process.argv.slice(2);
const llama = await getLlama({
  gpu: false,
  build: 'never',
  skipDownload: true,
  maxThreads: Number(threads),
  logLevel: 'error',
  progressLogs: false,
});
const model = await llama.loadModel({ modelPath });
const context = await model.createContext({ contextSize: 512, threads: Number(threads) });
const { value } = await context.getSequence().evaluate([5], { temperature: 0, yieldEogToken: true }).next();
console.log(value);
process.exit();
