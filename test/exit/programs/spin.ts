// `spin.ts`: loads the addon, and prints what a process that it starts sees of the variable that was set for the
// loading.
import { execFileSync } from 'node:child_process';
import { native } from '../../../lib/addon/addon';

native();
process.stdout.write(execFileSync('/bin/sh', ['-c', 'echo "child: $GOMP_SPINCOUNT"'], { encoding: 'utf8' }));
