// A fair reader-writer lock that a fork cannot break.
#pragma once
#include <condition_variable>
#include <cstdint>
#include <mutex>

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

}  // namespace rowwise
