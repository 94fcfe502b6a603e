#include "ids.hpp"

#include <algorithm>
#include <limits>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <utility>

#include "threads.hpp"

namespace rowwise {

namespace {

constexpr int64_t kIdsPerTask = 1 << 12;
constexpr int64_t kAhead = 32;  // ids whose places in a table are asked for together
constexpr uint32_t kMostCounted = 255;
constexpr uint32_t kMost = std::numeric_limits<uint32_t>::max();

const auto any = [](uint32_t) { return true; };

// Calls prefetch(hash) for a few ids, then use(i, hash) for the same.
template <class Prefetch, class Use>
void in_blocks(const IdBatch& batch, int64_t begin, int64_t end, Prefetch&& prefetch, Use&& use) {
    uint64_t hashes[kAhead];
    for (int64_t start = begin; start < end; start += kAhead) {
        const int64_t stop = std::min(end, start + kAhead);
        for (int64_t i = start; i < stop; ++i) prefetch(hashes[i - start] = batch.hash(i));
        for (int64_t i = start; i < stop; ++i) use(i, hashes[i - start]);
    }
}

}  // namespace

// ---------------------------------------------------------------------- lists of ids

void IdList::resize(int64_t n) {
    if (strings)
        texts.resize(static_cast<std::size_t>(n));
    else
        integers.resize(static_cast<std::size_t>(n));
}

void IdList::set(int64_t at, const IdBatch& batch, int64_t i) {
    if (strings)
        texts[at] = batch.string(i);
    else
        integers[at] = batch.integers[i];
}

void IdList::append(const IdList& other, int64_t i) {
    if (strings)
        texts.push_back(other.texts[i]);
    else
        integers.push_back(other.integers[i]);
}

void IdList::clear(int64_t at) {
    if (strings)
        std::string().swap(texts[at]);
    else
        integers[at] = 0;
}

bool IdList::same(int64_t at, const IdBatch& batch, int64_t i) const {
    return strings ? texts[at] == batch.string(i) : integers[at] == batch.integers[i];
}

bool IdList::less(int64_t a, int64_t b) const {
    return strings ? texts[a] < texts[b] : integers[a] < integers[b];
}

uint64_t IdList::hash(int64_t at) const {
    return strings ? hash_of(texts[at]) : hash_of(static_cast<uint64_t>(integers[at]));
}

// ---------------------------------------------------------------------- sightings

Sightings::Sightings(int64_t limit) : limit_(limit), width_(16) {
    while (width_ < 4 * limit) width_ *= 2;
}

uint32_t Sightings::add(uint64_t hash) {
    if (!sketch_.empty()) return add_to_sketch(hash, 1);
    if (const uint32_t* count = exact_.find(hash, any)) {
        auto& raised = const_cast<uint32_t&>(*count);
        raised += raised < kMost;
        return raised;
    }
    if (exact_.size() < limit_) return *exact_.insert(hash, 1);
    begin_sketch();
    return add_to_sketch(hash, 1);
}

void Sightings::forget(uint64_t hash) {
    if (sketch_.empty()) exact_.erase(hash, any);
}

void Sightings::prefetch(uint64_t hash) const {
    if (sketch_.empty()) {
        exact_.prefetch(hash);
    } else {
        for (int row = 0; row < kRows; ++row) __builtin_prefetch(&sketch_[counter(hash, row)]);
    }
}

std::size_t Sightings::counter(uint64_t hash, int row) const {
    const uint64_t place = hash_of(hash + static_cast<uint64_t>(row)) & (width_ - 1);
    return static_cast<std::size_t>(row * width_) + place;
}

uint32_t Sightings::add_to_sketch(uint64_t hash, uint32_t sightings) {
    uint32_t count = kMostCounted;
    for (int row = 0; row < kRows; ++row)
        count = std::min<uint32_t>(count, sketch_[counter(hash, row)]);
    count = std::min(kMostCounted, count + std::min(sightings, kMostCounted));
    for (int row = 0; row < kRows; ++row) {
        uint8_t& raised = sketch_[counter(hash, row)];
        raised = static_cast<uint8_t>(std::max<uint32_t>(raised, count));
    }
    since_halving_ += sightings;
    if (since_halving_ >= 2 * limit_) {
        since_halving_ = 0;
        for (uint8_t& halved : sketch_) halved /= 2;
    }
    return count;
}

// In the order of the hashes, which does not depend on the order in which the ids came.
void Sightings::begin_sketch() {
    const State before = state();
    sketch_.assign(static_cast<std::size_t>(kRows * width_), 0);
    exact_ = HashTable();
    for (std::size_t i = 0; i < before.hashes.size(); ++i)
        add_to_sketch(static_cast<uint64_t>(before.hashes[i]), before.counts[i]);
}

Sightings::State Sightings::state() const {
    State state;
    std::vector<std::pair<uint64_t, uint32_t>> entries;
    exact_.each([&](uint64_t hash, uint32_t count) { entries.emplace_back(hash, count); });
    std::sort(entries.begin(), entries.end());
    for (const auto& [hash, count] : entries) {
        state.hashes.push_back(static_cast<int64_t>(hash));
        state.counts.push_back(count);
    }
    state.sketch = sketch_;
    state.since_halving = since_halving_;
    return state;
}

void Sightings::restore(const State& state) {
    if (state.hashes.size() != state.counts.size() ||
        static_cast<int64_t>(state.hashes.size()) > limit_)
        throw std::invalid_argument("its counts of ids without a row do not fit");
    if (!state.sketch.empty() &&
        (static_cast<int64_t>(state.sketch.size()) != kRows * width_ || !state.hashes.empty()))
        throw std::invalid_argument("its sketch does not fit its capacity");
    if (state.since_halving < 0 || state.since_halving >= std::max<int64_t>(1, 2 * limit_))
        throw std::invalid_argument("its sketch's age is out of bounds");
    HashTable exact(static_cast<int64_t>(state.hashes.size()));
    for (std::size_t i = 0; i < state.hashes.size(); ++i) {
        const auto hash = static_cast<uint64_t>(state.hashes[i]);
        if (exact.find(hash, any) != nullptr)
            throw std::invalid_argument("an id without a row is counted twice");
        exact.insert(hash, state.counts[i]);
    }
    exact_ = std::move(exact);
    sketch_ = state.sketch;
    since_halving_ = state.since_halving;
}

// ---------------------------------------------------------------------- the index

IdIndex::IdIndex(const IdPolicy& policy, bool strings)
    : policy_(policy), rows_(policy.capacity), sightings_(policy.capacity) {
    const IdPolicy& p = policy_;
    if (p.capacity < 1 || p.unknown_rows < 1 || p.admit_after < 1 || p.evict_at_once < 1 ||
        p.in_flight < 1 || p.ttl < 0 || p.admit_after > kMostCounted)
        throw std::invalid_argument("a policy's number is out of bounds");
    if (p.capacity + p.unknown_rows > int64_t{kMost})
        throw std::invalid_argument("a table has at most 2**32 - 1 rows");
    ids_.strings = strings;
    ids_.resize(p.capacity);
    seen_.assign(static_cast<std::size_t>(p.capacity), 0);
    counts_.assign(static_cast<std::size_t>(p.capacity), 0);
    collect_free();
}

int64_t IdIndex::size() const {
    const std::shared_lock reading(lock_);
    return rows_.size();
}

std::size_t IdIndex::bytes() const {
    const std::shared_lock reading(lock_);
    std::size_t of_ids = ids_.integers.size() * sizeof(int64_t);
    for (const std::string& text : ids_.texts)
        of_ids += sizeof(std::string) + (text.capacity() > 15 ? text.capacity() + 1 : 0);
    return rows_.bytes() + sightings_.bytes() + of_ids + seen_.size() * sizeof(int64_t) +
           counts_.size() * sizeof(uint32_t) + free_.capacity() * sizeof(uint32_t);
}

const uint32_t* IdIndex::row_of(uint64_t hash, const IdBatch& batch, int64_t i) const {
    if (!ids_.strings) return rows_.find(hash, any);
    return rows_.find(hash, [&](uint32_t row) { return ids_.same(row, batch, i); });
}

int64_t IdIndex::unknown_row(uint64_t hash) const {
    return policy_.capacity + static_cast<int64_t>((hash >> 32) % policy_.unknown_rows);
}

void IdIndex::find_unlocked(const IdBatch& batch, int64_t* rows) const {
    parallel(batch.size(), kIdsPerTask, [&](int64_t begin, int64_t end) {
        in_blocks(
            batch, begin, end, [&](uint64_t hash) { rows_.prefetch(hash); },
            [&](int64_t i, uint64_t hash) {
                const uint32_t* row = row_of(hash, batch, i);
                rows[i] = row != nullptr ? *row : unknown_row(hash);
            });
    });
}

void IdIndex::find(const IdBatch& batch, int64_t* rows) const {
    const std::shared_lock reading(lock_);
    find_unlocked(batch, rows);
}

void IdIndex::see(int64_t row, int64_t step) {
    seen_[row] = step + 1;
    counts_[row] += counts_[row] < kMost;
}

IdChanges IdIndex::observe(const IdBatch& batch, int64_t step, int64_t* rows) {
    const std::unique_lock writing(lock_);
    IdChanges changes;
    changes.evicted.strings = ids_.strings;
    find_unlocked(batch, rows);
    // Those that have a row first, so that none of them loses it to another of this batch.
    const int64_t n = batch.size();
    std::vector<int64_t> without;
    for (int64_t i = 0; i < n; ++i) {
        if (i + kAhead < n && rows[i + kAhead] < policy_.capacity) {
            __builtin_prefetch(&seen_[rows[i + kAhead]]);
            __builtin_prefetch(&counts_[rows[i + kAhead]]);
        }
        if (rows[i] < policy_.capacity)
            see(rows[i], step);
        else
            without.push_back(i);
    }
    evict_old(step, changes);

    bool full = false;
    for (std::size_t k = 0; k < without.size(); ++k) {
        if (k + 8 < without.size()) {
            const uint64_t ahead = batch.hash(without[k + 8]);
            rows_.prefetch(ahead);
            if (policy_.admit_after > 1) sightings_.prefetch(ahead);
        }
        const int64_t i = without[k];
        const uint64_t hash = batch.hash(i);
        if (const uint32_t* row = row_of(hash, batch, i)) {  // admitted a few positions ago
            see(*row, step);
            continue;
        }
        if (policy_.admit_after > 1 && sightings_.add(hash) < policy_.admit_after) continue;
        int64_t row = 0;
        if (full || !take_row(step, changes, row)) {
            full = true;
            ++changes.refused;
            continue;
        }
        sightings_.forget(hash);
        rows_.insert(hash, static_cast<uint32_t>(row));
        ids_.set(row, batch, i);
        counts_[row] = 0;
        see(row, step);
        changes.admitted_rows.push_back(row);
        changes.admitted_keys.push_back(ids_.strings ? static_cast<int64_t>(hash)
                                                     : batch.integers[i]);
    }
    if (!changes.admitted_rows.empty())
        for (const int64_t i : without) {
            const uint64_t hash = batch.hash(i);
            if (const uint32_t* row = row_of(hash, batch, i)) rows[i] = *row;
        }
    return changes;
}

// A row for a new id, if need be from others; false: every row is pinned.
bool IdIndex::take_row(int64_t step, IdChanges& changes, int64_t& row) {
    if (free_.empty()) {
        std::vector<uint32_t> candidates;
        for (int64_t r = 0; r < policy_.capacity; ++r)
            if (seen_[r] != 0 && !pinned(r, step)) candidates.push_back(static_cast<uint32_t>(r));
        // A total order, so that the same rows go on every run.
        const auto before = [&](uint32_t a, uint32_t b) {
            if (policy_.by_count && counts_[a] != counts_[b]) return counts_[a] < counts_[b];
            if (!policy_.by_count && seen_[a] != seen_[b]) return seen_[a] < seen_[b];
            return ids_.less(a, b);
        };
        const auto leaving = static_cast<std::ptrdiff_t>(
            std::min<int64_t>(policy_.evict_at_once, static_cast<int64_t>(candidates.size())));
        if (leaving == 0) return false;
        std::nth_element(candidates.begin(), candidates.begin() + (leaving - 1), candidates.end(),
                         before);
        candidates.resize(static_cast<std::size_t>(leaving));
        std::sort(candidates.begin(), candidates.end(), before);
        evict(candidates, changes);
    }
    row = free_.back();
    free_.pop_back();
    return true;
}

// Searches 16 times within a ttl, so that a step's share of a search is small.
void IdIndex::evict_old(int64_t step, IdChanges& changes) {
    if (policy_.ttl == 0 || step - swept_ < (policy_.ttl + 15) / 16) return;
    swept_ = step;
    std::vector<uint32_t> old;
    for (int64_t r = 0; r < policy_.capacity; ++r)
        if (seen_[r] != 0 && step - (seen_[r] - 1) >= policy_.ttl && !pinned(r, step))
            old.push_back(static_cast<uint32_t>(r));
    std::sort(old.begin(), old.end(), [&](uint32_t a, uint32_t b) { return ids_.less(a, b); });
    evict(old, changes);
}

void IdIndex::evict(std::vector<uint32_t>& rows, IdChanges& changes) {
    for (const uint32_t row : rows) {
        changes.evicted_rows.push_back(row);
        changes.evicted.append(ids_, row);
        rows_.erase(ids_.hash(row), [&](uint32_t other) { return other == row; });
        ids_.clear(row);
        seen_[row] = 0;
        counts_[row] = 0;
    }
    if (!rows.empty()) collect_free();
}

void IdIndex::collect_free() {
    free_.clear();
    for (int64_t r = policy_.capacity - 1; r >= 0; --r)
        if (seen_[r] == 0) free_.push_back(static_cast<uint32_t>(r));
}

IdIndex::State IdIndex::state() const {
    const std::shared_lock reading(lock_);
    return {ids_, seen_, counts_, sightings_.state(), swept_};
}

void IdIndex::restore(State state) {
    const auto capacity = policy_.capacity;
    if (state.ids.strings != ids_.strings || state.ids.size() != capacity ||
        static_cast<int64_t>(state.seen.size()) != capacity ||
        static_cast<int64_t>(state.counts.size()) != capacity)
        throw std::invalid_argument("its ids do not fit its capacity");
    HashTable rows(capacity);
    for (int64_t r = 0; r < capacity; ++r) {
        if (state.seen[r] < 0) throw std::invalid_argument("an id was seen before the first step");
        if (state.seen[r] == 0) continue;
        const uint64_t hash = state.ids.hash(r);
        const auto same = [&](uint32_t other) {
            return !state.ids.strings || state.ids.texts[other] == state.ids.texts[r];
        };
        if (rows.find(hash, same) != nullptr) throw std::invalid_argument("an id has two rows");
        rows.insert(hash, static_cast<uint32_t>(r));
    }
    Sightings sightings(capacity);
    sightings.restore(state.sightings);

    const std::unique_lock writing(lock_);
    rows_ = std::move(rows);
    sightings_ = std::move(sightings);
    ids_ = std::move(state.ids);
    seen_ = std::move(state.seen);
    counts_ = std::move(state.counts);
    swept_ = state.swept;
    collect_free();
}

}  // namespace rowwise
