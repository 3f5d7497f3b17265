// What the files of C++ tests share.
#pragma once

#include <string>

// Prints what failed; the program then ends with an error.
void check(bool condition, const std::string& what);

void test_tensor_pool();
void test_generation();
void test_int8();
void test_transposed();
