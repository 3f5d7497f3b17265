// A user's smallest program: from nothing to the first token. Plain JavaScript, so that nothing has to be compiled.
//
//   node bench/first-token/neox.mjs MODEL_FOLDER DTYPE BACKEND THREADS
import { NeoXModel } from '../../dist/index.mjs';

const [folder, dtype, backend, threads] = process.argv.slice(2);
const model = await NeoXModel.load(folder, { dtype, backend, threads: Number(threads) });
const { tokens } = await model.generate([5], { maxNewTokens: 1, temperature: 0, ignoreEos: true });
console.log(tokens[0]);
