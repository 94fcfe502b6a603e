#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <unistd.h>
#endif

namespace rowwise {

namespace {

long process() {
#if defined(__unix__) || defined(__APPLE__)
    return getpid();
#else
    return 0;
#endif
}

// One range at a time, shared out by an atomic cursor.
struct Range {
    int64_t count = 0, grain = 1;
    void (*task)(void*, int64_t, int64_t) = nullptr;
    void* context = nullptr;
    std::atomic<int64_t> cursor{0};

    void work() {
        for (;;) {
            const int64_t begin = cursor.fetch_add(grain, std::memory_order_relaxed);
            if (begin >= count) return;
            task(context, begin, std::min(begin + grain, count));
        }
    }
};

class Pool {
  public:
    explicit Pool(int helpers) : process_(process()) {
        for (int i = 0; i < helpers; ++i) threads_.emplace_back([this] { serve(); });
    }

    ~Pool() {
        {
            std::lock_guard lock(mutex_);
            closing_ = true;
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
    }

    // Threads do not survive a fork; a child must build its own pool and leave this one alone.
    bool forked() const { return process_ != process(); }

    void run(Range& range) {
        {
            std::lock_guard lock(mutex_);
            range_ = &range;
            busy_ = static_cast<int>(threads_.size());
            ++round_;
        }
        wake_.notify_all();
        range.work();
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return busy_ == 0; });
        range_ = nullptr;
    }

  private:
    void serve() {
        uint64_t seen = 0;
        std::unique_lock lock(mutex_);
        for (;;) {
            wake_.wait(lock, [&] { return closing_ || round_ != seen; });
            if (closing_) return;
            seen = round_;
            Range* range = range_;
            lock.unlock();
            range->work();
            lock.lock();
            if (--busy_ == 0) done_.notify_one();
        }
    }

    const long process_;
    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    Range* range_ = nullptr;
    uint64_t round_ = 0;
    int busy_ = 0;
    bool closing_ = false;
};

// How code compiled by GCC starts a team of OpenMP threads. Intel's and LLVM's runtimes have it too.
using Team = void (*)(void (*)(void*), void*, unsigned threads, unsigned flags);

// Whether this process is a fork's child that has not become another program since: Linux's
// PF_FORKNOEXEC, in the field after the program's name in brackets and six more.
bool child_of_fork() {
    std::ifstream file("/proc/self/stat");
    std::string line;
    std::getline(file, line);
    std::istringstream fields(line.substr(std::min(line.rfind(')') + 1, line.size())));
    std::string skipped;
    for (int i = 0; i < 6; ++i) fields >> skipped;
    unsigned long flags = 0;
    fields >> flags;
    return (flags & 0x40) != 0;
}

// The runtime that the process has loaded for all, as PyTorch's; null without one, or in the child
// of a fork, where a runtime's threads are gone and it waits for them forever.
Team openmp() {
#if defined(__unix__) || defined(__APPLE__)
    static const long home = child_of_fork() ? -1 : process();
    static std::atomic<Team> found{nullptr};
    if (process() != home) return nullptr;
    if (found == nullptr) found = reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
#else
    return nullptr;
#endif
}

std::atomic<int> wanted{0};
std::atomic<std::mutex*> owner{new std::mutex};  // held by whoever uses the pool
Pool* pool = nullptr;                // never destroyed at exit: other threads may still run
int pool_threads = 0;
std::atomic<long> pool_process{0};

}  // namespace

void set_num_threads(int threads) { wanted = std::max(1, threads); }

int num_threads() {
    const int threads = wanted;
    return threads > 0 ? threads : std::max(1u, std::thread::hardware_concurrency());
}

void parallel_for(int64_t count, int64_t grain, void (*task)(void*, int64_t, int64_t),
                  void* context) {
    if (count <= 0) return;
    const int threads = num_threads();
    if (threads == 1 || count <= grain) {
        task(context, 0, count);
        return;
    }
    if (pool_process != process()) {  // first use, or a fork: the old mutex may be held by a ghost
        if (pool_process != 0) owner = new std::mutex;
        pool_process = process();
    }
    // Two Python threads at once: the second does its work alone rather than wait.
    std::unique_lock lock(*owner.load(), std::try_to_lock);
    if (!lock.owns_lock()) {
        task(context, 0, count);
        return;
    }
    Range range;
    range.count = count;
    range.grain = grain;
    range.task = task;
    range.context = context;
    if (const Team team = openmp()) {
        team([](void* work) { static_cast<Range*>(work)->work(); }, &range, threads, 0);
        return;
    }
    if (pool == nullptr || pool->forked() || pool_threads != threads) {
        if (pool != nullptr && !pool->forked()) delete pool;
        pool = new Pool(threads - 1);
        pool_threads = threads;
    }
    pool->run(range);
}

}  // namespace rowwise
