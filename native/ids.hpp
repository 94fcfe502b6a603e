// The index of a dynamic table: which row an id has, which ids get one, and which lose it.
#pragma once
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hash.hpp"
#include "lock.hpp"

namespace rowwise {

// The ids of a batch: 64-bit integers, or strings, one behind the other in `bytes`.
struct IdBatch {
    std::span<const int64_t> integers;
    const char* bytes = nullptr;
    std::span<const int64_t> offsets;  // (n + 1,) of strings; empty for integers

    bool strings() const { return !offsets.empty(); }
    int64_t size() const {
        return static_cast<int64_t>(strings() ? offsets.size() - 1 : integers.size());
    }
    std::string_view string(int64_t i) const {
        return {bytes + offsets[i], static_cast<std::size_t>(offsets[i + 1] - offsets[i])};
    }
    uint64_t hash(int64_t i) const {
        return strings() ? hash_of(string(i)) : hash_of(static_cast<uint64_t>(integers[i]));
    }
};

// Ids by row, or in a list.
struct IdList {
    bool strings = false;
    std::vector<int64_t> integers;
    std::vector<std::string> texts;

    int64_t size() const { return static_cast<int64_t>(strings ? texts.size() : integers.size()); }
    void resize(int64_t n);
    void set(int64_t at, const IdBatch& batch, int64_t i);
    void append(const IdList& other, int64_t i);
    void clear(int64_t at);  // of a string: its memory
    bool same(int64_t at, const IdBatch& batch, int64_t i) const;
    bool less(int64_t a, int64_t b) const;
    uint64_t hash(int64_t at) const;
};

// How often ids were seen that have no row: exactly, for up to `limit` ids; from then on by a
// count-min sketch (Cormode, Muthukrishnan, 2005) of 4 x 4 limit bytes, with conservative updates
// (Estan, Varghese, 2002). It never counts too little but for this: all its counters are halved
// after every 2 limit sightings, so that it does not fill up (the aging of TinyLFU).
class Sightings {
  public:
    explicit Sightings(int64_t limit);

    // Counts a sighting; returns the count, at most 255 by the sketch.
    uint32_t add(uint64_t hash);
    // The id was given a row: what is counted exactly is dropped.
    void forget(uint64_t hash);
    void prefetch(uint64_t hash) const;
    std::size_t bytes() const { return exact_.bytes() + sketch_.size(); }

    struct State {
        std::vector<int64_t> hashes;  // ascending, as unsigned integers
        std::vector<uint32_t> counts;
        std::vector<uint8_t> sketch;  // empty: all is counted exactly
        int64_t since_halving = 0;
    };
    State state() const;
    void restore(const State& state);  // throws std::invalid_argument

  private:
    static constexpr int kRows = 4;

    uint32_t add_to_sketch(uint64_t hash, uint32_t sightings);
    void begin_sketch();
    std::size_t counter(uint64_t hash, int row) const;

    int64_t limit_, width_, since_halving_ = 0;
    HashTable exact_;
    std::vector<uint8_t> sketch_;
};

struct IdPolicy {
    int64_t capacity;      // rows 0..capacity-1 are given to ids
    int64_t unknown_rows;  // rows from capacity on are read by ids without a row, by their hash
    int64_t admit_after;   // sightings after which an id gets a row
    bool by_count;  // the ids seen least often lose their rows first; else those unseen longest
    int64_t ttl;    // steps without a sighting after which a row is lost; 0: never for that
    int64_t evict_at_once;  // rows
    int64_t in_flight;      // steps for which an id that was seen cannot lose its row
};

// What `observe` changed. An id that is evicted had `evicted_rows[i]`, which may be given away
// again in the same call.
struct IdChanges {
    std::vector<int64_t> admitted_rows, evicted_rows;
    std::vector<int64_t> admitted_keys;  // the integers; of strings their hashes
    IdList evicted;
    int64_t refused = 0;  // ids that were due a row when none could be taken from another
};

// Steps are those of the table, which pass between calls of `observe`. Readers run beside each
// other, `observe` and `restore` alone.
class IdIndex {
  public:
    IdIndex(const IdPolicy& policy, bool strings);  // throws std::invalid_argument

    const IdPolicy& policy() const { return policy_; }
    bool strings() const { return ids_.strings; }
    int64_t size() const;
    std::size_t bytes() const;

    // rows (n,) <- the row of each id, an unknown row for one that has none.
    void find(const IdBatch& batch, int64_t* rows) const;

    // Counts a batch that is about to be trained on, evicts and admits, then does as `find`.
    IdChanges observe(const IdBatch& batch, int64_t step, int64_t* rows);

    struct State {
        IdList ids;                    // (capacity,)
        std::vector<int64_t> seen;     // (capacity,) 1 + the step of the last sighting; 0: free
        std::vector<uint32_t> counts;  // (capacity,) sightings since admission
        Sightings::State sightings;
        int64_t swept = 0;  // the step of the last search for rows beyond their ttl
    };
    State state() const;
    void restore(State state);  // throws std::invalid_argument, and has changed nothing then

  private:
    const uint32_t* row_of(uint64_t hash, const IdBatch& batch, int64_t i) const;
    int64_t unknown_row(uint64_t hash) const;
    void find_unlocked(const IdBatch& batch, int64_t* rows) const;
    void see(int64_t row, int64_t step);
    bool take_row(int64_t step, IdChanges& changes, int64_t& row);
    void evict_old(int64_t step, IdChanges& changes);
    void evict(std::vector<uint32_t>& rows, IdChanges& changes);
    bool pinned(int64_t row, int64_t step) const {
        return step - (seen_[row] - 1) < policy_.in_flight;
    }
    void collect_free();

    mutable ReadWriteLock lock_;
    IdPolicy policy_;
    HashTable rows_;
    Sightings sightings_;
    IdList ids_;
    std::vector<int64_t> seen_;
    std::vector<uint32_t> counts_;
    std::vector<uint32_t> free_;  // descending: the lowest row is given away first
    int64_t swept_ = 0;
};

}  // namespace rowwise
