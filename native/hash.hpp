// Hashes of ids, and an open-addressing table of hashes.
#pragma once
#include <cstdint>
#include <cstring>
#include <new>
#include <string_view>
#include <utility>

#include "memory.hpp"

namespace rowwise {

// A bijection of the 64-bit integers (the finalizer of splitmix64): two integers with the same hash
// are the same integer.
inline uint64_t hash_of(uint64_t x) {
    x += 0x9E3779B97F4A7C15u;
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
    x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
    return x ^ (x >> 31);
}

// Of the bytes of a string, eight at a time; two strings may share a hash.
inline uint64_t hash_of(std::string_view text) {
    uint64_t hash = hash_of(text.size());
    while (!text.empty()) {
        const std::size_t taken = text.size() < 8 ? text.size() : 8;
        uint64_t word = 0;
        std::memcpy(&word, text.data(), taken);
        hash = hash_of(hash ^ word);
        text.remove_prefix(taken);
    }
    return hash;
}

// 32-bit values by hash: linear probing over a power of two of places, at most half of them taken.
// Where hashes may be shared, `same(value)` says whether a value is the one that is meant.
class HashTable {
  public:
    explicit HashTable(int64_t expected = 0) {
        while (places_ < 2 * expected) places_ *= 2;
        allocate_slots();
    }
    HashTable(HashTable&& other) noexcept { swap(other); }
    HashTable& operator=(HashTable&& other) noexcept {
        swap(other);
        return *this;
    }
    ~HashTable() {
        if (slots_ != nullptr) release(slots_, bytes());
    }

    int64_t size() const { return size_; }
    std::size_t bytes() const { return static_cast<std::size_t>(places_) * sizeof(Slot); }

    void prefetch(uint64_t hash) const { __builtin_prefetch(&slots_[home(hash)]); }

    template <class Same>
    const uint32_t* find(uint64_t hash, Same&& same) const {
        for (int64_t at = home(hash); slots_[at].taken; at = next(at))
            if (slots_[at].hash == hash && same(slots_[at].value)) return &slots_[at].value;
        return nullptr;
    }

    // The hash and value must not be there yet.
    uint32_t* insert(uint64_t hash, uint32_t value) {
        if (2 * (size_ + 1) > places_) grow();
        ++size_;
        return place(hash, value);
    }

    template <class Same>
    void erase(uint64_t hash, Same&& same) {
        const uint32_t* found = find(hash, same);
        if (found == nullptr) return;
        auto hole = reinterpret_cast<const Slot*>(reinterpret_cast<const char*>(found) -
                                                  offsetof(Slot, value)) -
                    slots_;
        // What follows moves up, where it may stand so near to its home.
        for (int64_t at = next(hole); slots_[at].taken; at = next(at)) {
            const int64_t from_home = (at - home(slots_[at].hash)) & (places_ - 1);
            if (from_home < ((at - hole) & (places_ - 1))) continue;
            slots_[hole] = slots_[at];
            hole = at;
        }
        slots_[hole].taken = false;
        --size_;
    }

    template <class Visit>
    void each(Visit&& visit) const {
        for (int64_t at = 0; at < places_; ++at)
            if (slots_[at].taken) visit(slots_[at].hash, slots_[at].value);
    }

  private:
    struct Slot {
        uint64_t hash;
        uint32_t value;
        bool taken;
    };

    int64_t home(uint64_t hash) const { return static_cast<int64_t>(hash & (places_ - 1)); }
    int64_t next(int64_t at) const { return (at + 1) & (places_ - 1); }

    void allocate_slots() {
        slots_ = static_cast<Slot*>(allocate(bytes()));
        if (slots_ == nullptr) throw std::bad_alloc();
    }

    uint32_t* place(uint64_t hash, uint32_t value) {
        int64_t at = home(hash);
        while (slots_[at].taken) at = next(at);
        slots_[at] = {hash, value, true};
        return &slots_[at].value;
    }

    void grow() {
        HashTable larger(places_);
        each([&](uint64_t hash, uint32_t value) { larger.place(hash, value); });
        larger.size_ = size_;
        swap(larger);
    }

    void swap(HashTable& other) noexcept {
        std::swap(slots_, other.slots_);
        std::swap(places_, other.places_);
        std::swap(size_, other.size_);
    }

    Slot* slots_ = nullptr;
    int64_t places_ = 16, size_ = 0;
};

}  // namespace rowwise
