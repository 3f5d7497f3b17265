// What lets an addon that was linked on a new Linux run on an old one (glibc 2.28, the libstdc++ of GCC 8), which is
// what libtorch's own wheels ask for. A linker takes the newest version of each symbol that it finds; here the few
// newer ones are replaced, by older versions of the same symbol or by a few lines. CMakeLists.txt sends the calls here
// (`--wrap`), and scripts/prebuilds.mjs refuses an addon that asks for anything newer.
#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <condition_variable>
#include <mutex>

#if defined(__x86_64__)
#define OLDEST "GLIBC_2.2.5"
#else
#define OLDEST "GLIBC_2.17"
#endif

extern "C" {

// std::shared_ptr reads this flag of glibc 2.32 to leave out atomic operations while a process has one thread. Ours
// never has: false is always right.
char __libc_single_threaded = 0;

// log and pow of glibc 2.29 differ from their elders only in that they do not look for a handler of errors (SVID).
double old_log(double);
double old_pow(double, double);
int old_pthread_once(pthread_once_t*, void (*)());
__asm__(".symver old_log,log@" OLDEST);
__asm__(".symver old_pow,pow@" OLDEST);
__asm__(".symver old_pthread_once,pthread_once@" OLDEST);
double __wrap_log(double x) { return old_log(x); }
double __wrap_pow(double x, double y) { return old_pow(x, y); }
int __wrap_pthread_once(pthread_once_t* once, void (*function)()) { return old_pthread_once(once, function); }

// stat and fstat are functions of the library since 2.33; the system calls fill the same struct on 64-bit systems.
int __wrap_stat(const char* path, struct stat* status) {
  return static_cast<int>(syscall(SYS_newfstatat, AT_FDCWD, path, status, 0));
}
int __wrap_fstat(int descriptor, struct stat* status) {
  return static_cast<int>(syscall(SYS_fstat, descriptor, status));
}

// A wait until a moment of the steady clock (glibc 2.30), as one until the same moment of the clock that old condition
// variables know. Who waits looks at the steady clock again when it ends, so that a change of the time of day makes it
// late or early at most once.
int __wrap_pthread_cond_clockwait(pthread_cond_t* condition, pthread_mutex_t* mutex, clockid_t clock,
                                  const struct timespec* until) {
  timespec there{};
  timespec here{};
  clock_gettime(clock, &there);
  clock_gettime(CLOCK_REALTIME, &here);
  here.tv_sec += until->tv_sec - there.tv_sec;
  here.tv_nsec += until->tv_nsec - there.tv_nsec;
  if (here.tv_nsec < 0) {
    here.tv_nsec += 1'000'000'000;
    here.tv_sec -= 1;
  } else if (here.tv_nsec >= 1'000'000'000) {
    here.tv_nsec -= 1'000'000'000;
    here.tv_sec += 1;
  }
  return pthread_cond_timedwait(condition, mutex, &here);
}

// std::condition_variable::wait has a new version since GCC 12, which only lost its `noexcept`.
void old_condition_variable_wait(std::condition_variable*, std::unique_lock<std::mutex>*);
__asm__(
    ".symver old_condition_variable_wait,"
    "_ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE@GLIBCXX_3.4.11");
void __wrap__ZNSt18condition_variable4waitERSt11unique_lockISt5mutexE(std::condition_variable* condition,
                                                                      std::unique_lock<std::mutex>* lock) {
  old_condition_variable_wait(condition, lock);
}
}
