#pragma once

// Runs the tests of generation_tests.cc; returns how many checks failed.
int test_generation();
