#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <mutex>
#include <sstream>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <dlfcn.h>
#include <pthread.h>
#define ROWWISE_POSIX 1
#endif
#ifdef __linux__
#include <sched.h>
#endif

namespace rowwise {

namespace {

// One range at a time, shared out by an atomic cursor.
struct Range {
    int64_t count = 0, grain = 1;
    void (*task)(void*, int64_t, int64_t) = nullptr;
    void* context = nullptr;
    std::atomic<int64_t> cursor{0};
    std::atomic<bool> failed{false};
    std::exception_ptr error;  // of the first task that failed

    void work() noexcept {
        while (!failed.load(std::memory_order_relaxed)) {
            const int64_t begin = cursor.fetch_add(grain, std::memory_order_relaxed);
            if (begin >= count) return;
            try {
                task(context, begin, std::min(begin + grain, count));
            } catch (...) {
                if (!failed.exchange(true)) error = std::current_exception();
            }
        }
    }

    // Once every thread has left work().
    void finish() const {
        if (error) std::rethrow_exception(error);
    }
};

std::atomic<int> missing{0};  // threads that could not be made
std::atomic<bool> warned{false};

class Pool {
  public:
    // Makes as many of the helpers as the system grants.
    explicit Pool(int helpers) {
        threads_.reserve(static_cast<std::size_t>(helpers));
        try {
            while (static_cast<int>(threads_.size()) < helpers)
                threads_.emplace_back([this] { serve(); });
        } catch (const std::exception&) {  // std::system_error or std::bad_alloc
            if (!warned.exchange(true)) missing = helpers - static_cast<int>(threads_.size());
        }
    }

    ~Pool() {
        {
            std::lock_guard lock(mutex_);
            closing_ = true;
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
    }

    void run(Range& range) {
        {
            std::lock_guard lock(mutex_);
            range_ = &range;
            busy_ = threads_.size();
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

    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_, done_;
    Range* range_ = nullptr;
    uint64_t round_ = 0;
    std::size_t busy_ = 0;
    bool closing_ = false;
};

std::atomic<int> wanted{0};                      // 0: the default
std::atomic<std::mutex*> owner{new std::mutex};  // held by whoever uses the pool
Pool* pool = nullptr;  // never destroyed at exit: other threads may still run
int pool_threads = 0;
std::atomic<bool> forked{false};

// Threads do not survive a fork: a child builds a pool of its own, and leaves the parent's and its
// lock, which a thread that is gone may hold, alone.
void after_fork_in_child() {
    forked = true;
    owner = new std::mutex;
    pool = nullptr;
}

// How code compiled by GCC starts a team of OpenMP threads. Intel's and LLVM's runtimes have it
// too.
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
const bool born_by_fork = child_of_fork();
Team openmp() {
#ifdef ROWWISE_POSIX
    static std::atomic<Team> found{nullptr};
    if (born_by_fork || forked) return nullptr;
    if (found == nullptr) found = reinterpret_cast<Team>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
    return found;
#else
    return nullptr;
#endif
}

int processors() {
#ifdef __linux__
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof set, &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

// The first of the numbers in OMP_NUM_THREADS, or the processors that the process may run on.
int default_threads() {
    if (const char* given = std::getenv("OMP_NUM_THREADS")) {
        const long threads = std::strtol(given, nullptr, 10);
        if (threads >= 1 && threads <= 1 << 16) return static_cast<int>(threads);
    }
    return processors();
}

// A runtime that cannot make its threads ends the process, so that it is asked for no more than
// there are processors, or than the framework asks it for.
unsigned team_size(int threads) {
    static const int most = [] {
        int framework = 1;
#ifdef ROWWISE_POSIX
        if (void* symbol = dlsym(RTLD_DEFAULT, "omp_get_max_threads"))
            framework = reinterpret_cast<int (*)()>(symbol)();
#endif
        return std::max(processors(), framework);
    }();
    return static_cast<unsigned>(std::min(threads, most));
}

const bool watches_forks = [] {
#ifdef ROWWISE_POSIX
    pthread_atfork(nullptr, nullptr, after_fork_in_child);
#endif
    return true;
}();

}  // namespace

void set_num_threads(int threads) {
    wanted = std::max(1, threads);
    warned = false;
}

int num_threads() {
    static const int by_default = default_threads();
    const int threads = wanted;
    return threads > 0 ? threads : by_default;
}

int pop_missing_threads() { return missing == 0 ? 0 : missing.exchange(0); }

// Pieces from which a framework's team is asked for help. It waits for all of its threads, and
// where other programs have the cores that takes longer than small work.
constexpr int64_t kTeamPieces = 16;

void parallel_for(int64_t count, int64_t grain, void (*task)(void*, int64_t, int64_t),
                  void* context) {
    if (count <= 0) return;
    const int threads = num_threads();
    const Team team = threads == 1 || count <= grain ? nullptr : openmp();
    if (threads == 1 || count <= grain * (team ? kTeamPieces : 1)) {
        task(context, 0, count);
        return;
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
    if (team) {
        team([](void* work) { static_cast<Range*>(work)->work(); }, &range, team_size(threads), 0);
    } else {
        if (pool == nullptr || pool_threads != threads) {
            delete std::exchange(pool, nullptr);
            pool = new Pool(threads - 1);
            pool_threads = threads;
        }
        pool->run(range);
    }
    range.finish();
}

}  // namespace rowwise
