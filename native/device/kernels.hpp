// The kernels of a table whose rows lie on a device, each a function of (item, lane): a GPU runs
// them side by side, `serial.cpp` one after the other in any order. A thread reads nothing that
// another of the same launch writes, but for the note of a bad id (`report`), from which every
// thread concludes the same; nothing is added to a float but by its own lane. So the order does not
// matter, and the bits are those of the CPU's kernels.
//
// A batch comes sorted by id, stable. The place where an id first stands does the work for all of
// its places. Sums of more than kBlockSum gradients are made in blocks, side by side, as the CPU
// makes them one after the other.
#pragma once
#include "call.hpp"
#include "rules.hpp"

namespace rowwise {
namespace ROWWISE_ISA {

// W numbers of a row, side by side: read and written at once.
template <int W>
struct alignas(W * sizeof(float)) Pack {
    float v[W];
};

template <int W>
ROWWISE_HD inline Pack<W>& pack_at(float* p) {
    return *reinterpret_cast<Pack<W>*>(p);
}
template <int W>
ROWWISE_HD inline const Pack<W>& pack_at(const float* p) {
    return *reinterpret_cast<const Pack<W>*>(p);
}

// ------------------------------------------------------------------ ids outside the table

// Whether an id is no row's; the number of rows may be the one that an update leaves out.
ROWWISE_HD inline bool outside(const DeviceCall& c, int64_t id) {
    return static_cast<uint64_t>(id) >= static_cast<uint64_t>(c.table.rows) &&
           !(id == c.table.rows && id == c.skipped_row);
}

// How many steps were skipped that the host had counted when it made this call.
ROWWISE_HD inline uint32_t lag_of_host(const DeviceCall& c) {
    return c.trouble->skipped - c.known_skipped;
}

// The clock as the last call left it that was good.
ROWWISE_HD inline ClockView clock_of(const DeviceCall& c) {
    ClockView clock = c.clock;
    if (c.trouble->key < c.key)
        clock.now = c.trouble->now;
    else if (c.advances)
        clock.now -= lag_of_host(c);
    return clock;
}

// The step of this call.
ROWWISE_HD inline const StepChoice& choice_of(const DeviceCall& c) {
    return c.choices[lag_of_host(c)];
}

// *to <- the lesser of it and value; returns what it was.
ROWWISE_HD inline uint64_t lower(uint64_t* to, uint64_t value) {
#if defined(__CUDA_ARCH__)
    return atomicMin(reinterpret_cast<unsigned long long*>(to), value);
#else
    const uint64_t before = *to;
    if (value < before) *to = value;
    return before;
#endif
}

// Records that the id at `position` of the batch is outside the table.
ROWWISE_HD inline void report(const DeviceCall& c, int64_t position) {
    Trouble& trouble = *c.trouble;
    if (lower(&trouble.key, c.key | static_cast<uint64_t>(position)) < c.key) return;
    const uint32_t lag = lag_of_host(c);
    trouble.steps = c.steps - lag;
    trouble.now = c.advances ? c.clock.now - lag : c.clock.now;
    // Whoever writes last has seen that no earlier position came meanwhile.
    uint64_t key;
    do {
        key = *const_cast<volatile uint64_t*>(&trouble.key);
        *const_cast<volatile int64_t*>(&trouble.id) = c.batch[key & 0xffffffffu];
#if defined(__CUDA_ARCH__)
        __threadfence();
#endif
    } while (key != *const_cast<volatile uint64_t*>(&trouble.key));
    *c.alarm = 1;
}

ROWWISE_HD inline bool is_skipped(const DeviceCall& c) {
    return c.found_inf != nullptr && *c.found_inf != 0;
}

// Whether a factor made NaN of the zeros that a dense gradient has in all rows but the batch's.
ROWWISE_HD inline bool spoils_others(const DeviceCall& c) {
    return c.others != nullptr && *c.others != *c.others;
}

// Whether this call must change nothing: an id of an earlier batch is outside, or one of this, or
// the step is skipped.
ROWWISE_HD inline bool is_off(const DeviceCall& c) {
    if (c.trouble->key < c.key || is_skipped(c)) return true;
    return c.ids != nullptr && c.n > 0 && (outside(c, c.ids[0]) || outside(c, c.ids[c.n - 1]));
}

// ------------------------------------------------------------------ reading a row

// W neighbouring elements of a row, with their slots.
template <class R, int W>
struct Elements {
    Pack<W> w, z[R::slots > 0 ? R::slots : 1];

    ROWWISE_HD Elements(const TableView& table, int64_t id, int64_t d)
        : w(pack_at<W>(table.weights + id * table.dim + d)) {
        for (int i = 0; i < R::slots; ++i) {
            if constexpr (R::row_slots)
                for (int j = 0; j < W; ++j) z[i].v[j] = table.slots[i][id];
            else
                z[i] = pack_at<W>(table.slots[i] + id * table.dim + d);
        }
    }
    ROWWISE_HD Slots<R::slots> slots(int j) const {
        Slots<R::slots> s{};
        for (int i = 0; i < R::slots; ++i) s.z[i] = z[i].v[j];
        return s;
    }
    ROWWISE_HD void set(int j, float weight, const Slots<R::slots>& s) {
        w.v[j] = weight;
        for (int i = 0; i < R::slots; ++i) z[i].v[j] = s.z[i];
    }
    // Slots of one number a row are written by `finish`, which comes after all lanes have read.
    ROWWISE_HD void store(const TableView& table, int64_t id, int64_t d) const {
        pack_at<W>(table.weights + id * table.dim + d) = w;
        if constexpr (!R::row_slots)
            for (int i = 0; i < R::slots; ++i)
                pack_at<W>(table.slots[i] + id * table.dim + d) = z[i];
    }
};

// The present weight of an element whose missed steps are replayed one by one.
template <class R>
ROWWISE_HD float replayed(const Hyperparameters& h, const ClockView& clock, const LaggedUpdate& k,
                          uint32_t last_step, float w, const Slots<R::slots>& s) {
    const double root = R::root(s);
    double power = 1, shrink = 1, sum = 0;
    const uint32_t count = clock.replay_count(last_step);
    for (uint32_t j = 1; j <= count; ++j) {
        power *= h.exact_beta_1;
        shrink *= h.exact_shrink;
        const ReplayTerm term = clock.replay_term(last_step, j);
        const double scale = term.scale * power, epsilon = h.exact_epsilon * term.epsilon_factor;
        sum += scale / R::denominator(root * shrink, epsilon);
    }
    const double moved = s.z[0] * sum;
    return static_cast<float>(static_cast<double>(k.decay_factor) * w - moved);
}

// What the missed steps make of an element's weight.
template <class R>
ROWWISE_HD float present(const Hyperparameters& h, const ClockView& clock, const LaggedUpdate& k,
                         uint32_t last_step, float w, const Slots<R::slots>& s) {
    if constexpr (R::expands) {
        if (R::may_fail(k) && R::fails(R::limit(k, h), s))
            return replayed<R>(h, clock, k, last_step, w, s);
    }
    R::lag_weight(k, h, w, s);
    return w;
}

// Whether slots can have moved the weight: those of an untouched row cannot.
template <class R>
ROWWISE_HD bool reads_slots(const TableView& table, const RowState& state) {
    return R::moves && !(table.slots_pristine && state.update_count == 0);
}

// Reads the present values of one row.
template <class R, int W>
struct Reader {
    const DeviceCall& c;
    const int64_t id;
    const ClockView clock;
    const RowState state;
    const LaggedUpdate k;

    ROWWISE_HD Reader(const DeviceCall& c, int64_t id)
        : c(c), id(id), clock(clock_of(c)), state(c.table.states[id]),
          k(clock.since(state.last_step)) {}

    ROWWISE_HD Pack<W> operator()(int64_t d) const {
        if (clock.now == 0 || state.last_step == clock.now)
            return pack_at<W>(c.table.weights + id * c.table.dim + d);
        Pack<W> out;
        if (!reads_slots<R>(c.table, state)) {
            const Pack<W> w = pack_at<W>(c.table.weights + id * c.table.dim + d);
            for (int j = 0; j < W; ++j) out.v[j] = R::lag_untrained(k, w.v[j]);
            return out;
        }
        const Elements<R, W> row(c.table, id, d);
        for (int j = 0; j < W; ++j)
            out.v[j] = present<R>(c.hyper, clock, k, state.last_step, row.w.v[j], row.slots(j));
        return out;
    }
};

// ------------------------------------------------------------------ runs of equal ids

ROWWISE_HD inline bool starts_run(const DeviceCall& c, int64_t place) {
    return place == 0 || c.ids[place - 1] != c.ids[place];
}

// The first place of low..high whose id is not below `id`; high if there is none.
ROWWISE_HD inline int64_t first_not_below(const int64_t* ids, int64_t low, int64_t high,
                                          int64_t id) {
    while (low < high) {
        const int64_t middle = low + (high - low) / 2;
        if (ids[middle] < id)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

ROWWISE_HD inline int64_t end_of_run(const DeviceCall& c, int64_t place) {
    const int64_t id = c.ids[place], next = place + 1;
    if (next == c.n || c.ids[next] != id) return next;
    return first_not_below(c.ids, next, c.n, id + 1);
}

// sum <- the sum of places first..last, in order; a place without a source adds nothing.
template <int W>
ROWWISE_HD Pack<W> sum_block(const DeviceCall& c, int64_t first, int64_t last, int64_t d) {
    Pack<W> sum{};
    for (int64_t p = first; p < last; ++p) {
        if (c.sources[p] < 0) continue;
        const Pack<W> g = pack_at<W>(c.gradients + c.sources[p] * c.table.dim + d);
        const float weight = c.weights != nullptr ? c.weights[p] : 1.0f;
        for (int j = 0; j < W; ++j)
            sum.v[j] = p == first ? weight * g.v[j] : sum.v[j] + weight * g.v[j];
    }
    return sum;
}

// Where the sum of a block lies. Of long runs, no two last blocks and no two others begin within
// the same kBlockSum places.
ROWWISE_HD inline float* block_at(const DeviceCall& c, int64_t first, int64_t end) {
    const bool last = end - first <= kBlockSum;
    return c.blocks + (2 * (first / kBlockSum) + (last ? 1 : 0)) * c.table.dim;
}

// The sum of a run's gradients. One that is a number has come since the zeros became NaN.
template <int W>
ROWWISE_HD Pack<W> sum_run(const DeviceCall& c, int64_t begin, int64_t end, int64_t d) {
    const bool is_block = end - begin <= kBlockSum;
    Pack<W> sum =
        is_block ? sum_block<W>(c, begin, end, d) : pack_at<W>(block_at(c, begin, end) + d);
    if (!is_block) {
        for (int64_t p = begin + kBlockSum; p < end; p += kBlockSum) {
            const Pack<W> block = pack_at<W>(block_at(c, p, end) + d);
            for (int j = 0; j < W; ++j) sum.v[j] += block.v[j];
        }
    }
    if (spoils_others(c)) {
        for (int j = 0; j < W; ++j)
            if (sum.v[j] - sum.v[j] == 0) sum.v[j] = *c.others;
    }
    return sum;
}

// Adds up what `kPartials` lanes have summed each.
ROWWISE_HD inline float sum_of_partials(const float* partials) {
    float lane[kPartials];
    for (int j = 0; j < kPartials; ++j) lane[j] = partials[j];
    for (int half = kPartials / 2; half > 0; half /= 2)
        for (int j = 0; j < half; ++j) lane[j] += lane[j + half];
    return lane[0];
}

// ------------------------------------------------------------------ kernels: reading

// out (n, dim) <- the present values of rows batch (n,); 0 for an id outside.
template <class R, int W>
struct Gather {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t item, int lane, int lanes) {
        const int64_t id = c.batch[item], dim = c.table.dim;
        float* out = c.out + item * dim;
        if (outside(c, id)) {
            for (int64_t d = lane * W; d < dim; d += lanes * W) pack_at<W>(out + d) = Pack<W>{};
            if (lane == 0) report(c, item);
            return;
        }
        const Reader<R, W> row(c, id);
        for (int64_t d = lane * W; d < dim; d += lanes * W) pack_at<W>(out + d) = row(d);
    }
};

// out (bags, dim) <- the weighted sum of each bag's rows; 0 where it is empty.
template <class R, int W>
struct GatherBags {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t item, int lane, int lanes) {
        const int64_t dim = c.table.dim;
        for (int64_t d = lane * W; d < dim; d += lanes * W) {
            Pack<W> sum{};
            for (int64_t i = c.offsets[item]; i < c.offsets[item + 1]; ++i) {
                if (outside(c, c.batch[i])) {
                    if (d == 0) report(c, i);
                    continue;
                }
                const Pack<W> value = Reader<R, W>(c, c.batch[i])(d);
                const float weight = c.weights != nullptr ? c.weights[i] : 1.0f;
                for (int j = 0; j < W; ++j) sum.v[j] += weight * value.v[j];
            }
            pack_at<W>(c.out + item * dim + d) = sum;
        }
    }
};

// out (bags, dim) <- the largest of each bag's values, argmax (bags, dim) <- the first position
// that has it; 0 and -1 where the bag is empty. A NaN is the largest.
template <class R, int W>
struct GatherBagsMax {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t item, int lane, int lanes) {
        const int64_t dim = c.table.dim;
        for (int64_t d = lane * W; d < dim; d += lanes * W) {
            Pack<W> best{};
            int64_t at[W];
            for (int j = 0; j < W; ++j) at[j] = -1;
            for (int64_t i = c.offsets[item]; i < c.offsets[item + 1]; ++i) {
                if (outside(c, c.batch[i])) {
                    if (d == 0) report(c, i);
                    continue;
                }
                const Pack<W> value = Reader<R, W>(c, c.batch[i])(d);
                for (int j = 0; j < W; ++j) {
                    const bool better =
                        at[j] < 0 || value.v[j] > best.v[j] || value.v[j] != value.v[j];
                    if (better) best.v[j] = value.v[j];
                    if (better) at[j] = i;
                }
            }
            pack_at<W>(c.out + item * dim + d) = best;
            for (int j = 0; j < W; ++j) c.argmax[item * dim + d + j] = at[j];
        }
    }
};

// out, of a slot's shape <- its present values.
template <class R, int W>
struct ReadSlot {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t item, int lane, int lanes) {
        if constexpr (R::slots > 0) {
            const LaggedUpdate k = clock_of(c).since(c.table.states[item].last_step);
            for (int64_t d = lane * W; d < c.table.slot_dim; d += lanes * W) {
                const Elements<R, W> row(c.table, item, d);
                for (int j = 0; j < W && d + j < c.table.slot_dim; ++j) {
                    auto slots = row.slots(j);
                    R::lag_slots(k, c.hyper, slots);
                    c.out[item * c.table.slot_dim + d + j] = slots.z[c.slot];
                }
            }
        }
    }
};

// ------------------------------------------------------------------ kernels: gradients

// partials (n, kPartials) <- the products of each position's row with its bag's gradient, where
// `sources` has the bag of each position, -1 for none.
template <class R>
struct BagWeightPartials {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t item, int lane, int) {
        const int64_t dim = c.table.dim;
        float sum = 0;
        if (c.sources[item] >= 0 && !outside(c, c.batch[item])) {
            const Reader<R, 1> row(c, c.batch[item]);
            const float* gradient = c.gradients + c.sources[item] * dim;
            for (int64_t d = lane; d < dim; d += kPartials) sum += gradient[d] * row(d).v[0];
        }
        c.partials[item * kPartials + lane] = sum;
    }
};

// out (n,) <- the sums of the partials.
template <class R>
struct SumPartials {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t item, int, int) {
        c.out[item] = sum_of_partials(c.partials + item * kPartials);
    }
};

// out (n, dim) <- each position's part of the gradient of `GatherBagsMax`, where `sources` has the
// bag of each position, -1 for none.
template <class R, int W>
struct SpreadMax {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t item, int lane, int lanes) {
        const int64_t dim = c.table.dim, bag = c.sources[item];
        for (int64_t d = lane * W; d < dim; d += lanes * W)
            for (int j = 0; j < W; ++j) {
                const bool own = bag >= 0 && c.argmax[bag * dim + d + j] == item;
                // A sum of the CPU's begins with 0: it is never -0.
                c.out[item * dim + d + j] = 0.0f + (own ? c.gradients[bag * dim + d + j] : 0.0f);
            }
    }
};

// blocks <- the sums of the blocks of runs longer than one.
template <class R, int W>
struct SumBlocks {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t place, int lane, int lanes) {
        const int64_t id = c.ids[place];
        const bool before = place >= kBlockSum && c.ids[place - kBlockSum] == id;
        const bool after = place + kBlockSum < c.n && c.ids[place + kBlockSum] == id;
        if (!before && !after) return;  // no block of a long run begins here
        const int64_t begin = first_not_below(c.ids, 0, place, id);
        if ((place - begin) % kBlockSum != 0) return;
        const int64_t end = end_of_run(c, place);
        const int64_t last = end - place > kBlockSum ? place + kBlockSum : end;
        float* out = block_at(c, place, end);
        for (int64_t d = lane * W; d < c.table.dim; d += lanes * W)
            pack_at<W>(out + d) = sum_block<W>(c, place, last, d);
    }
};

// out (n, dim) <- the sum of each run's gradients, at the place where it starts.
template <class R, int W>
struct SumRuns {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t place, int lane, int lanes) {
        if (!starts_run(c, place)) return;
        const int64_t end = end_of_run(c, place), dim = c.table.dim;
        for (int64_t d = lane * W; d < dim; d += lanes * W)
            pack_at<W>(c.out + place * dim + d) = sum_run<W>(c, place, end, d);
    }
};

// partials (n, kPartials) <- the squares of each run's sum.
template <class R>
struct SquarePartials {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t place, int lane, int) {
        if constexpr (R::row_slots) {
            if (!starts_run(c, place) || c.ids[place] == c.skipped_row) return;
            const int64_t end = end_of_run(c, place);
            float sum = 0;
            for (int64_t d = lane; d < c.table.dim; d += kPartials) {
                const float g = sum_run<1>(c, place, end, d).v[0];
                sum += g * g;
            }
            c.partials[place * kPartials + lane] = sum;
        }
    }
};

// ------------------------------------------------------------------ kernels: writing

// Steps the slot of a row that has one number; returns what its gradients are multiplied by.
template <class R>
ROWWISE_HD float step_row(const DeviceCall& c, float squares, const LaggedUpdate& k,
                          Slots<R::slots>& slots) {
    R::lag_slots(k, c.hyper, slots);
    return R::step_row(choice_of(c).step, c.hyper, squares / static_cast<float>(c.table.dim),
                       slots);
}
template <class R>
ROWWISE_HD float step_row_at(const DeviceCall& c, int64_t place, const LaggedUpdate& k,
                             Slots<R::slots>& slots) {
    return step_row<R>(c, sum_of_partials(c.partials + place * kPartials), k, slots);
}

// Brings an element up to date and makes one step with its gradient; `rate`: what `step_row` gave.
template <class R, int W>
ROWWISE_HD void step_element(const DeviceCall& c, const ClockView& clock, const LaggedUpdate& k,
                             uint32_t last_step, float rate, float g, Elements<R, W>& row, int j) {
    const Step& step = choice_of(c).step;
    auto slots = row.slots(j);
    float w = present<R>(c.hyper, clock, k, last_step, row.w.v[j], slots);
    if constexpr (R::row_slots) {
        R::step(step, rate, g, w);
    } else {
        R::lag_slots(k, c.hyper, slots);
        R::step(step, c.hyper, g, w, slots);
    }
    row.set(j, w, slots);
}

// Brings the batch's rows up to date and makes one step with the sums of their gradients; `Finish`
// then writes what all lanes of a row have read.
template <class R, int W>
struct Update {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t place, int lane, int lanes) {
        if (!starts_run(c, place) || is_off(c)) return;
        const int64_t id = c.ids[place], dim = c.table.dim;
        if (id == c.skipped_row) return;
        const int64_t end = end_of_run(c, place);
        const uint32_t last_step = c.table.states[id].last_step;
        const ClockView clock = clock_of(c);
        const LaggedUpdate k = clock.since(last_step);
        float rate = 0;
        if constexpr (R::row_slots) {
            auto slots = Elements<R, 1>(c.table, id, 0).slots(0);
            rate = step_row_at<R>(c, place, k, slots);
        }
        for (int64_t d = lane * W; d < dim; d += lanes * W) {
            const Pack<W> g = sum_run<W>(c, place, end, d);
            Elements<R, W> row(c.table, id, d);
            for (int j = 0; j < W; ++j)
                step_element<R, W>(c, clock, k, last_step, rate, g.v[j], row, j);
            row.store(c.table, id, d);
        }
    }
};

// Records in a row the step of this call.
ROWWISE_HD inline void record_step(const DeviceCall& c, const ClockView& clock, RowState& state) {
    state.last_step = clock.now + (c.advances ? 1 : 0);
    state.count_update(choice_of(c).step.iteration);
}

// Records the step in the rows of the batch, and in the clock's arrays.
template <class R>
struct Finish {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t place, int, int) {
        if (place < c.n && outside(c, c.batch[place])) report(c, place);
        if (is_off(c)) return;
        const ClockView clock = clock_of(c);
        if (place == 0 && c.advances) {
            ClockView next = clock;
            ++next.now;
            next.push(choice_of(c).record);
        }
        if (place >= c.n || !starts_run(c, place) || c.ids[place] == c.skipped_row) return;
        RowState& state = c.table.states[c.ids[place]];
        if constexpr (R::row_slots) {
            auto slots = Elements<R, 1>(c.table, c.ids[place], 0).slots(0);
            step_row_at<R>(c, place, clock.since(state.last_step), slots);
            c.table.slots[0][c.ids[place]] = slots.z[0];
        }
        record_step(c, clock, state);
    }
};

// Steps the rows that are not in the batch, where the zeros of their gradient became NaN. Each of
// kStrided threads has its own.
template <class R>
struct UpdateOthers {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t item, int, int) {
        if (!spoils_others(c) || is_off(c)) return;
        const ClockView clock = clock_of(c);
        const float g = *c.others;
        for (int64_t id = item; id < c.table.rows; id += kStrided) {
            RowState& state = c.table.states[id];
            if (state.last_update_is(choice_of(c).step.iteration)) continue;
            const LaggedUpdate k = clock.since(state.last_step);
            auto slots = Elements<R, 1>(c.table, id, 0).slots(0);
            float rate = 0;
            if constexpr (R::row_slots) rate = step_row<R>(c, g, k, slots);
            for (int64_t d = 0; d < c.table.dim; ++d) {
                Elements<R, 1> row(c.table, id, d);
                step_element<R, 1>(c, clock, k, state.last_step, rate, g, row, 0);
                row.store(c.table, id, d);
            }
            if constexpr (R::row_slots) c.table.slots[0][id] = slots.z[0];
            record_step(c, clock, state);
        }
    }
};

// Takes the step that `Finish` has recorded into the sums of the last steps, item + 1 steps ago.
// The sums alternate between two arrays.
template <class R>
struct Advance {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t item, int, int) {
        if (c.trouble->key <= (c.key | 0xffffffffu) || is_skipped(c)) return;
        ClockView clock = clock_of(c);
        ++clock.now;
        clock.decays = clock.decays || choice_of(c).record.decay_factor != 1.0;
        const auto k = static_cast<uint32_t>(item + 1);
        if (k > clock.now) return;  // the host has counted a step that was skipped
        const int64_t half = int64_t{clock.horizon} + 1;
        const HorizonSum* before = clock.sums + (clock.now & 1 ? 0 : half);
        HorizonSum& sum = clock.sums[(clock.now & 1 ? half : 0) + k];
        clock.extend(clock.addend(clock.now), before[k - 1], k, sum);
        clock.write(clock.recent[k], sum.decay, 1.0, sum.terms);
        // A row at the horizon's far end gains nothing from later steps but their weight decay.
        if (k == clock.horizon && clock.closes()) clock.closed[clock.now - k] = sum.terms;
    }
};

// Counts a step that was skipped, and tells the host.
template <class R>
struct CountSkipped {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t, int, int) {
        const uint32_t skipped = is_skipped(c) ? 1 : 0;
        c.trouble->skipped += skipped;
        c.made[c.turn % kOpenSteps] = 2 * c.turn + skipped;
    }
};

// Brings rows up to date, each by the lanes of its first place; `RecordCurrent` then records it.
template <class R, int W>
struct Materialize {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t place, int lane, int lanes) {
        if (is_off(c) || (c.ids != nullptr && !starts_run(c, place))) return;
        const int64_t id = c.ids != nullptr ? c.ids[place] : place, dim = c.table.dim;
        const RowState state = c.table.states[id];
        const ClockView clock = clock_of(c);
        const LaggedUpdate k = clock.since(state.last_step);
        const bool untrained = R::slots > 0 && c.table.slots_pristine && state.update_count == 0;
        if (untrained ? R::lag_untrained(k, 1.0f) == 1.0f : state.last_step == clock.now) return;
        for (int64_t d = lane * W; d < dim; d += lanes * W) {
            if (untrained) {
                Pack<W>& w = pack_at<W>(c.table.weights + id * dim + d);
                for (int j = 0; j < W; ++j) w.v[j] = R::lag_untrained(k, w.v[j]);
                continue;
            }
            Elements<R, W> row(c.table, id, d);
            for (int j = 0; j < W; ++j) {
                auto slots = row.slots(j);
                const float w = present<R>(c.hyper, clock, k, state.last_step, row.w.v[j], slots);
                if constexpr (!R::row_slots) R::lag_slots(k, c.hyper, slots);
                row.set(j, w, slots);
            }
            row.store(c.table, id, d);
        }
    }
};

// Records that rows are up to date; if all of them are, the clock starts anew.
template <class R>
struct RecordCurrent {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t place, int, int) {
        if (c.ids == nullptr) {
            if (!is_off(c)) c.table.states[place].last_step = 0;
            return;
        }
        if (outside(c, c.batch[place])) report(c, place);
        if (!is_off(c) && starts_run(c, place))
            c.table.states[c.ids[place]].last_step = clock_of(c).now;
    }
};

// Sets rows, which are up to date, to the values of the places where they first stand.
template <class R, int W>
struct WriteRows {
    ROWWISE_HD static void run(const DeviceCall& c, int64_t place, int lane, int lanes) {
        if (is_off(c) || !starts_run(c, place)) return;
        const int64_t dim = c.table.dim;
        float* row = c.table.weights + c.ids[place] * dim;
        for (int64_t d = lane * W; d < dim; d += lanes * W)
            pack_at<W>(row + d) = pack_at<W>(c.gradients + c.sources[place] * dim + d);
    }
};

}  // namespace ROWWISE_ISA

}  // namespace rowwise
