// What malloc keeps.
#pragma once

#include <cstdlib>  // any header of glibc's, which tells that it is glibc

#if defined(__GLIBC__)
#include <malloc.h>
#endif

namespace neox {

// Gives the system what is free. glibc keeps it as long as something behind it is in use: a process whose model had
// been trained over and disposed (rinna's small shape) still held 431 MB in bfloat16, 190 with this, and 1,033 and 285
// after two more. One that is loaded in bfloat16 from a file in float32 holds 60 MB less. It takes milliseconds.
inline void trim_heap() {
#if defined(__GLIBC__)
  malloc_trim(0);
#endif
}

}  // namespace neox
