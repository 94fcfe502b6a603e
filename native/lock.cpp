#include "lock.hpp"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#define ROWWISE_FORKS 1
#endif

namespace rowwise {

namespace {

// Every lock there is. Never destroyed: tables may outlive everything at the end of the process.
struct Registry {
    std::mutex mutex;
    std::vector<ReadWriteLock*> locks;
};

Registry& registry();

#ifdef ROWWISE_FORKS
void before_fork() {
    registry().mutex.lock();
    for (ReadWriteLock* lock : registry().locks) lock->before_fork();
}

void in_parent() {
    for (ReadWriteLock* lock : registry().locks) lock->after_fork_in_parent();
    registry().mutex.unlock();
}

void in_child() {
    for (ReadWriteLock* lock : registry().locks) lock->after_fork_in_child();
    new (&registry().mutex) std::mutex;
}
#endif

Registry& registry() {
    static auto* all = [] {
#ifdef ROWWISE_FORKS
        pthread_atfork(before_fork, in_parent, in_child);
#endif
        return new Registry;
    }();
    return *all;
}

}  // namespace

ReadWriteLock::ReadWriteLock() {
    const std::lock_guard hold(registry().mutex);
    registry().locks.push_back(this);
}

ReadWriteLock::~ReadWriteLock() {
    const std::lock_guard hold(registry().mutex);
    auto& locks = registry().locks;
    locks.erase(std::find(locks.begin(), locks.end(), this));
}

void ReadWriteLock::lock_shared() {
    std::unique_lock hold(mutex_);
    if (!writing_ && waiting_writers_ == 0) {
        ++readers_;
        return;
    }
    ++waiting_readers_;
    // The writer that leaves counts those it lets in.
    readers_turn_.wait(hold, [this, before = turns_] { return turns_ != before; });
}

void ReadWriteLock::unlock_shared() {
    const std::lock_guard hold(mutex_);
    if (--readers_ == 0 && waiting_writers_ > 0) writers_turn_.notify_one();
}

void ReadWriteLock::lock() {
    std::unique_lock hold(mutex_);
    ++waiting_writers_;
    writers_turn_.wait(hold, [this] { return !writing_ && readers_ == 0; });
    --waiting_writers_;
    writing_ = true;
}

void ReadWriteLock::unlock() {
    const std::lock_guard hold(mutex_);
    writing_ = false;
    if (waiting_readers_ > 0) {
        readers_ = std::exchange(waiting_readers_, 0);
        ++turns_;
        readers_turn_.notify_all();
    } else if (waiting_writers_ > 0) {
        writers_turn_.notify_one();
    }
}

void ReadWriteLock::before_fork() {
    lock_shared();
    mutex_.lock();
}

void ReadWriteLock::after_fork_in_parent() {
    mutex_.unlock();
    unlock_shared();
}

void ReadWriteLock::after_fork_in_child() {
    // Threads that held it or waited for it are not in this process.
    new (&mutex_) std::mutex;
    new (&readers_turn_) std::condition_variable;
    new (&writers_turn_) std::condition_variable;
    readers_ = waiting_readers_ = waiting_writers_ = 0;
    writing_ = false;
}

void ReentrantLock::take() {
    owner_ = std::this_thread::get_id();
    ++depth_;
}

void ReentrantLock::lock() {
    std::unique_lock hold(mutex_);
    free_.wait(hold, [&] { return may_take(); });
    take();
}

bool ReentrantLock::try_lock_for(std::chrono::milliseconds patience) {
    std::unique_lock hold(mutex_);
    if (!free_.wait_for(hold, patience, [&] { return may_take(); })) return false;
    take();
    return true;
}

void ReentrantLock::unlock() {
    const std::lock_guard hold(mutex_);
    if (--depth_ == 0) free_.notify_one();
}

}  // namespace rowwise
