// Work shared out to a few threads: a framework's OpenMP threads where the process has some, for
// these spin while they wait and would keep others off the cores; else a few sleeping ones of ours.
#pragma once
#include <cstdint>

namespace rowwise {

// How many threads to use: OMP_NUM_THREADS, or as many as the process may have processors, unless
// set. Where the system grants fewer, those it grants do the work.
void set_num_threads(int threads);
int num_threads();

// How many of the threads asked for could not be made; 0 when called again. For one warning.
int pop_missing_threads();

// Calls task(context, begin, end) until [0, count) is covered in pieces of `grain`, on several
// threads when there is more than one piece. Which thread takes which piece is left to chance, so
// a task must give the same bits however the range is cut. An exception of any task ends the work
// and is thrown here.
void parallel_for(int64_t count, int64_t grain, void (*task)(void*, int64_t, int64_t),
                  void* context);

// The same for a lambda `body(begin, end)`.
template <class Body>
void parallel(int64_t count, int64_t grain, Body&& body) {
    parallel_for(
        count, grain,
        [](void* context, int64_t begin, int64_t end) {
            (*static_cast<Body*>(context))(begin, end);
        },
        &body);
}

}  // namespace rowwise
