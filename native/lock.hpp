// A fair reader-writer lock that a fork cannot break.
#pragma once
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

namespace rowwise {

// Readers beside each other, a writer alone, and their turns alternate: readers that come while a
// writer waits let it go first, and a writer that leaves first lets in all readers that wait.
//
// A fork waits until nobody writes. Its child finds every lock free.
class ReadWriteLock {
  public:
    ReadWriteLock();
    ~ReadWriteLock();
    ReadWriteLock(const ReadWriteLock&) = delete;
    ReadWriteLock& operator=(const ReadWriteLock&) = delete;

    void lock_shared();
    void unlock_shared();
    void lock();
    void unlock();

    // Hold the lock for a fork, and let go of it in the parent or in the child.
    void before_fork();
    void after_fork_in_parent();
    void after_fork_in_child();

  private:
    std::mutex mutex_;
    std::condition_variable readers_turn_, writers_turn_;
    int64_t readers_ = 0, waiting_readers_ = 0, waiting_writers_ = 0;
    uint64_t turns_ = 0;  // of the readers
    bool writing_ = false;
};

// A lock that a thread may take several times, as `std::recursive_timed_mutex`; so may the thread
// of a fork's child, which to the system is another.
class ReentrantLock {
  public:
    void lock();
    bool try_lock_for(std::chrono::milliseconds patience);
    void unlock();

  private:
    bool may_take() const { return depth_ == 0 || owner_ == std::this_thread::get_id(); }
    void take();

    std::mutex mutex_;
    std::condition_variable free_;
    std::thread::id owner_;
    int64_t depth_ = 0;
};

}  // namespace rowwise
