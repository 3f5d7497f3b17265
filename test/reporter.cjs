/** Ends a run with one plain line. A test file that does not run at all counts as one failure. */
module.exports = class {
  onRunComplete(_contexts, results) {
    const failed = results.numFailedTests + results.numRuntimeErrorTestSuites;
    // Jest's own summary comes after the reporters.
    process.once('exit', () => console.log(`${results.numPassedTests} passed, ${failed} failed`));
  }
};
