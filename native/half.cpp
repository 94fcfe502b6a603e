#include "half.hpp"

#include <cmath>
#include <cstring>

#include "row.hpp"
#include "threads.hpp"

namespace rowwise {
namespace ROWWISE_ISA {

namespace {

constexpr uint32_t kLookEvery = 4;       // steps gone through between looks at what can still move
constexpr float kRoom = 1.0f + 0x1p-8f;  // for the rounding of bounds

void ask_row(const TableView& table, int64_t id) {
    const uint16_t* row = table.halves + id * table.dim;
    for (int64_t d = 0; d < table.dim && d < 2 * kHead; d += 2 * kLine)
        __builtin_prefetch(row + d, 1);
}

void read_row(const TableView& table, int64_t id, float* out) {
    widen(table.storage, table.halves + id * table.dim, table.dim, out);
}

// Stores values that are rounded already.
void store_row(const TableView& table, int64_t id, const float* values) {
    uint16_t* row = table.halves + id * table.dim;
    with_half(table.storage, [&](auto half) {
        for (int64_t d = 0; d < table.dim; ++d) row[d] = half.narrow(values[d]);
    });
}

void round_nearest(Storage storage, float* values, int64_t dim) {
    with_half(storage, [&](auto half) {
        for (int64_t d = 0; d < dim; ++d) values[d] = half.nearest(values[d]);
    });
}

constexpr int kLanes = 16;  // numbers that are worked on at once
// Where there are as many, four vectors: the arithmetic of a step waits for that of the one before.
#if defined(__AVX512F__)
constexpr int kWide = 64;
#else
constexpr int kWide = 32;
#endif

// The words of `philox`, of kLanes blocks from `first` on; a copy for each instruction set.
struct Noise {
    uint32_t word[4][kLanes];

    Noise(uint64_t seed, uint64_t row, uint64_t first) {
        uint32_t c0[kLanes], c1[kLanes], c2[kLanes], c3[kLanes];
        for (int j = 0; j < kLanes; ++j) {
            const uint64_t block = first + static_cast<uint64_t>(j);
            c0[j] = static_cast<uint32_t>(block);
            c1[j] = static_cast<uint32_t>(block >> 32);
            c2[j] = static_cast<uint32_t>(row);
            c3[j] = static_cast<uint32_t>(row >> 32);
        }
        auto k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
        for (int round = 0; round < 10; ++round, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
#pragma GCC unroll 1
            for (int j = 0; j < kLanes; ++j) {
                const uint64_t a = uint64_t{0xD2511F53u} * c0[j], b = uint64_t{0xCD9E8D57u} * c2[j];
                c0[j] = static_cast<uint32_t>(b >> 32) ^ c1[j] ^ k0;
                c1[j] = static_cast<uint32_t>(b);
                c2[j] = static_cast<uint32_t>(a >> 32) ^ c3[j] ^ k1;
                c3[j] = static_cast<uint32_t>(a);
            }
        }
        for (int j = 0; j < kLanes; ++j) {
            word[0][j] = c0[j];
            word[1][j] = c1[j];
            word[2][j] = c2[j];
            word[3][j] = c3[j];
        }
    }
};

// Rounds up or down at random, up the likelier the nearer that is. What is drawn depends on the
// seed, the row, the step and the column alone.
void round_random(const TableView& table, int64_t id, int64_t step, float* values) {
    // The numbers of a row's start are blocks below 2^30 of the same seed's.
    uint64_t block = static_cast<uint64_t>(step + 1) << 30;
    with_half(table.storage, [&](auto half) {
        for (int64_t from = 0; from < table.dim; from += 4 * kLanes, block += kLanes) {
            const Noise noise(table.rounding_seed, static_cast<uint64_t>(id), block);
            const int64_t end = table.dim - from < 4 * kLanes ? table.dim - from : 4 * kLanes;
            float* __restrict w = values + from;
            for (int64_t d = 0; d < end; ++d)
                w[d] = half.random(w[d], noise.word[d / kLanes][d % kLanes]);
        }
    });
}

// Working memory of a row.
struct HalfScratch {
    Scratch<float> data;
    float *weights, *value, *sum;
    explicit HalfScratch(int64_t dim)
        : data(3 * dim), weights(data.data), value(weights + dim), sum(value + dim) {}
};

constexpr uint32_t kChunk = 32;

// Some of a row's missed steps, as float32: what each multiplies the weight by, its movement's
// coefficient, and for rules that expand the denominator's factor and summand.
struct MissedSteps {
    uint32_t count = 0;
    float decay[kChunk], scale[kChunk], shrink[kChunk], epsilon[kChunk];
    float bound[kChunk / kLookEvery];  // of all scales from every kLookEvery-th on
};

// Goes through the missed steps of a row.
template <class R>
class MissedReader {
  public:
    MissedReader(const Lag<R>& lag, const Rule& rule, const RowState& state)
        : clock_(lag.clock), h_(rule.hyper), steps_(clock_.steps() + state.last_step),
          missed_(lag.now - state.last_step),
          moves_(lag.reads_slots(state) ? reach_of(clock_, missed_) : 0), bound_(clock_.ratio()) {}

    // Epsilon of the first, which is the least.
    float epsilon() const {
        return static_cast<float>(h_.exact_epsilon * steps_[1].epsilon_factor);
    }

    // The next steps; none at the end.
    void read(MissedSteps& out) {
        const double ratio = clock_.ratio(), most = clock_.most_scale();
        for (out.count = 0; out.count < kChunk && at_ <= missed_; ++at_, bound_ *= ratio) {
            const bool moves = at_ <= moves_;
            const uint32_t i = out.count++;
            if (i % kLookEvery == 0)
                out.bound[i / kLookEvery] = moves ? static_cast<float>(most * bound_) : 0.0f;
            power_ *= R::expands ? h_.exact_beta_1 : ratio;
            shrink_ *= h_.exact_shrink;
            const StepRecord& step = steps_[at_];
            out.decay[i] = static_cast<float>(step.decay_factor);
            out.scale[i] = moves ? static_cast<float>(step.scale * power_) : 0.0f;
            out.shrink[i] = static_cast<float>(shrink_);
            out.epsilon[i] = static_cast<float>(h_.exact_epsilon * step.epsilon_factor);
        }
    }

  private:
    static uint32_t reach_of(const Clock& clock, uint32_t missed) {
        return clock.unbounded() || missed < clock.horizon() ? missed : clock.horizon();
    }

    const Clock& clock_;
    const Hyperparameters& h_;
    const StepRecord* steps_;
    const uint32_t missed_, moves_;  // how many steps there are, and how many move the weights
    uint32_t at_ = 1;
    double bound_, power_ = 1, shrink_ = 1;
};

// `size` weights of a row, on their way through missed steps.
template <class R, class Half, int size>
struct Lanes {
    static constexpr int slots = R::slots > 0 ? R::slots : 1;
    float w[size] = {}, z[slots][size] = {}, root[size] = {};
    float reach[size] = {};  // the largest movement by a coefficient of 1 that any step can make

    Lanes(const Row<R>& row, int64_t first, int64_t count, bool moves, const Hyperparameters& h,
          float epsilon) {
        for (int64_t d = 0; d < count; ++d) w[d] = row.w[first + d];
        if (!moves) return;
        for (int i = 0; i < R::slots; ++i)
            for (int64_t d = 0; d < count; ++d) z[i][d] = row.z[i][R::row_slots ? 0 : first + d];
        LaggedUpdate one;
        one.coefficients[0] = 1;
        // Not unrolled, the compiler makes vectors of these loops.
        if constexpr (R::expands) {
#pragma GCC unroll 1
            for (int d = 0; d < size; ++d) root[d] = R::root(load(d));
#pragma GCC unroll 1
            for (int d = 0; d < size; ++d)
                reach[d] = std::fabs(z[0][d]) / R::denominator(root[d], epsilon);
        } else {
#pragma GCC unroll 1
            for (int d = 0; d < size; ++d) {
                float moved = 0;
                R::lag_weight(one, h, moved, load(d));
                reach[d] = std::fabs(moved);
            }
        }
        for (int64_t d = count; d < size; ++d) reach[d] = 0;
    }

    Slots<R::slots> load(int d) const {
        Slots<R::slots> s{};
        for (int i = 0; i < R::slots; ++i) s.z[i] = z[i][d];
        return s;
    }

    // Return whether no step can change a weight any more, whose coefficient is `bound` at most.
    bool at_rest(float bound, float decay) const {
        int moving = 0;
        for (int d = 0; d < size; ++d) {
            const float most = (reach[d] * bound + decay * std::fabs(w[d])) * kRoom;
            const bool moves =
                (Half::nearest(w[d] + most) != w[d]) | (Half::nearest(w[d] - most) != w[d]);
            moving |= moves & (w[d] - w[d] == 0);
        }
        return moving == 0;
    }

    // Goes through steps; returns whether the weights have come to rest.
    bool run(const MissedSteps& steps, float most_decay, const Hyperparameters& h) {
        for (uint32_t i = 0; i < steps.count; ++i) {
            if (i % kLookEvery == 0 && at_rest(steps.bound[i / kLookEvery], most_decay))
                return true;
            if constexpr (R::expands) {
                const float decay = steps.decay[i], scale = steps.scale[i];
                const float shrink = steps.shrink[i], epsilon = steps.epsilon[i];
                for (int d = 0; d < size; ++d) {
                    const float moved = scale * z[0][d] / R::denominator(root[d] * shrink, epsilon);
                    w[d] = Half::nearest(decay * w[d] - (scale != 0 ? moved : 0.0f));
                }
            } else {
                LaggedUpdate one;
                one.decay_factor = steps.decay[i];
                one.coefficients[0] = steps.scale[i];
                for (int d = 0; d < size; ++d) {
                    R::lag_weight(one, h, w[d], load(d));
                    w[d] = Half::nearest(w[d]);
                }
            }
        }
        return false;
    }
};

// row.w <- the present weights, gone through the missed steps one by one with a rounding after
// each.
template <class R, class Half>
void replay(const Lag<R>& lag, const Rule& rule, const RowState& state, const Row<R>& row) {
    const bool moves = lag.reads_slots(state);
    if (!moves && lag.clock.most_decay() == 0) return;
    const Hyperparameters h = rule.hyper;
    const auto most_decay = static_cast<float>(lag.clock.most_decay());
    MissedReader<R> reader(lag, rule, state);
    const float epsilon = reader.epsilon();
    MissedSteps first;
    reader.read(first);
    const auto go_through = [&](auto lanes, int64_t from, int64_t count) {
        bool at_rest = lanes.run(first, most_decay, h);
        if (!at_rest && first.count == kChunk) {  // seldom
            MissedReader<R> rest = reader;
            MissedSteps next;
            for (rest.read(next); next.count > 0 && !at_rest; rest.read(next))
                at_rest = lanes.run(next, most_decay, h);
        }
        for (int64_t d = 0; d < count; ++d) row.w[from + d] = lanes.w[d];
    };
    const int64_t dim = lag.table.dim;
    int64_t from = 0;
    for (; dim - from > kWide / 2; from += kWide) {
        const int64_t count = dim - from < kWide ? dim - from : kWide;
        go_through(Lanes<R, Half, kWide>(row, from, count, moves, h, epsilon), from, count);
    }
    for (; from < dim; from += kLanes) {
        const int64_t count = dim - from < kLanes ? dim - from : kLanes;
        go_through(Lanes<R, Half, kLanes>(row, from, count, moves, h, epsilon), from, count);
    }
}

// row.w <- the present weights of a row that lags, rounded to nearest.
template <class R>
void present_nearest(const Lag<R>& lag, const Rule& rule, const RowState& state, const Row<R>& row,
                     const HalfScratch& scratch) {
    if constexpr (R::forgets) {
        value_at(lag, rule, state, row, scratch.value, [](int64_t) {});
        std::memcpy(row.w, scratch.value, lag.table.dim * sizeof(float));
        round_nearest(lag.table.storage, row.w, lag.table.dim);
    } else {
        with_half(lag.table.storage,
                  [&](auto half) { replay<R, decltype(half)>(lag, rule, state, row); });
    }
}

// Returns where the present weights of row id are, rounded: in `scratch`.
template <class R>
const float* present_half(const Lag<R>& lag, const Rule& rule, int64_t id,
                          const HalfScratch& scratch) {
    const TableView& table = lag.table;
    const RowState& state = table.states[id];
    read_row(table, id, scratch.weights);
    if (!lag.lags(state)) return scratch.weights;
    const Row<R> row(table, id, scratch.weights);
    if (!table.rounds_at_random) {
        present_nearest(lag, rule, state, row, scratch);
        return scratch.weights;
    }
    value_at(lag, rule, state, row, scratch.value, [](int64_t) {});
    round_random(table, id, table.steps, scratch.value);
    return scratch.value;
}

// Brings a row up to date, its weights in scratch.weights not rounded where that is at random.
template <class R>
void apply_lag_half(const Lag<R>& lag, const Rule& rule, int64_t id, const HalfScratch& scratch) {
    const TableView& table = lag.table;
    const RowState& state = table.states[id];
    read_row(table, id, scratch.weights);
    if (!lag.lags(state)) return;
    const Row<R> row(table, id, scratch.weights);
    if (table.rounds_at_random) {
        apply_lag(lag, rule, state, row);
        return;
    }
    present_nearest(lag, rule, state, row, scratch);
    LaggedUpdate missed;
    const LaggedUpdate k = lag.missed(state, missed);
    const Hyperparameters h = rule.hyper;
    for (int64_t d = 0; d < table.slot_dim && R::slots > 0; ++d) {
        auto slots = row.load(d);
        R::lag_slots(k, h, slots);
        row.store(d, slots);
    }
}

// Makes one step with gradient g (dim,) of a row that is up to date.
template <class R>
void step_row(const Rule& rule, const Step& step, const Row<R>& row, const float* __restrict g,
              int64_t dim) {
    const Hyperparameters h = rule.hyper;
    const Step s = step;
    float* __restrict w = row.w;
    if constexpr (R::row_slots) {
        auto slots = row.load(0);
        const float rate = R::step_row(s, h, dot(g, g, dim) / static_cast<float>(dim), slots);
        row.store(0, slots);
        for (int64_t d = 0; d < dim; ++d) R::step(s, rate, g[d], w[d]);
    } else {
#pragma GCC ivdep
        for (int64_t d = 0; d < dim; ++d) {
            float value = w[d];
            auto slots = row.load(d);
            R::step(s, h, g[d], value, slots);
            w[d] = value;
            row.store(d, slots);
        }
    }
}

// Stores the weights in scratch.weights, rounded, as of step `step` of the table.
void store_rounded(const TableView& table, int64_t id, int64_t step, const HalfScratch& scratch) {
    if (table.rounds_at_random)
        round_random(table, id, step, scratch.weights);
    else
        round_nearest(table.storage, scratch.weights, table.dim);
    store_row(table, id, scratch.weights);
}

template <class R>
void gather_rows(const TableView& table, const Rule& rule, const Clock& clock, const int64_t* ids,
                 int64_t n, int64_t begin, int64_t end, float* out) {
    const Lag<R> lag(table, clock);
    const HalfScratch scratch(table.dim);
    for (int64_t i = begin; i < end; ++i) {
        if (i + 2 * kAhead < n) __builtin_prefetch(table.states + ids[i + 2 * kAhead]);
        const int64_t next = ids[i + kAhead < n ? i + kAhead : i];
        ask_row(table, next);
        if (lag.lags(table.states[next]) && lag.reads_slots(table.states[next]))
            Row<R>(table, next, nullptr).ask_slots(table.dim);
        std::memcpy(out + (i - begin) * table.dim, present_half(lag, rule, ids[i], scratch),
                    table.dim * sizeof(float));
    }
}

template <class R>
void update_rows(const TableView& table, const Rule& rule, const Clock& clock, const Step& step,
                 const Plan& plan, const float* gradients) {
    const Lag<R> lag(table, clock);
    const int64_t distinct = plan.distinct(), dim = table.dim;
    const int64_t* ids = plan.ids.data();
    parallel(distinct, kRowsPerTask, [&](int64_t begin, int64_t end) {
        const HalfScratch scratch(dim);
        for (int64_t i = begin; i < end; ++i) {
            if (i + 2 * kAhead < distinct)
                __builtin_prefetch(table.states + ids[i + 2 * kAhead], 1);
            const int64_t next = ids[i + kAhead < distinct ? i + kAhead : i];
            ask_row(table, next);
            Row<R>(table, next, nullptr).ask_slots(dim);
            sum_of(plan, i, dim, gradients, scratch.sum);
            apply_lag_half(lag, rule, ids[i], scratch);
            const Row<R> row(table, ids[i], scratch.weights);
            step_row(rule, step, row, scratch.sum, dim);
            store_rounded(table, ids[i], table.steps + 1, scratch);
            RowState& state = table.states[ids[i]];
            state.last_step = step.last_step;
            state.count_update(step.iteration);
        }
    });
}

template <class R>
void materialize_row(const Lag<R>& lag, const Rule& rule, int64_t id, const HalfScratch& scratch) {
    const TableView& table = lag.table;
    const RowState& state = table.states[id];
    if (!lag.lags(state)) return;
    if (R::slots > 0 && table.slots_pristine && state.update_count == 0) {
        if (!R::forgets && lag.clock.most_decay() == 0) return;  // its pages stay as they are
        store_row(table, id, present_half(lag, rule, id, scratch));
        return;
    }
    apply_lag_half(lag, rule, id, scratch);
    store_rounded(table, id, table.steps, scratch);
}

template <class R>
void materialize_rows(const TableView& table, const Rule& rule, const Clock& clock,
                      const Plan& plan) {
    const Lag<R> lag(table, clock);
    parallel(plan.distinct(), kRowsPerTask, [&](int64_t begin, int64_t end) {
        const HalfScratch scratch(table.dim);
        for (int64_t i = begin; i < end; ++i) {
            materialize_row(lag, rule, plan.ids[i], scratch);
            table.states[plan.ids[i]].last_step = lag.now;
        }
    });
}

template <class R>
void materialize_all_rows(const TableView& table, const Rule& rule, const Clock& clock) {
    const Lag<R> lag(table, clock);
    parallel(table.rows, kRowsPerTask, [&](int64_t begin, int64_t end) {
        const HalfScratch scratch(table.dim);
        for (int64_t id = begin; id < end; ++id) {
            materialize_row(lag, rule, id, scratch);
            table.states[id].last_step = 0;
        }
    });
}

}  // namespace

void gather_half(const TableView& table, const Rule& rule, const Clock& clock, const int64_t* ids,
                 int64_t n, float* out) {
    parallel(n, kRowsPerTask, [&](int64_t begin, int64_t end) {
        gather_half_rows(table, rule, clock, ids, n, begin, end, out + begin * table.dim);
    });
}

void gather_half_rows(const TableView& table, const Rule& rule, const Clock& clock,
                      const int64_t* ids, int64_t n, int64_t begin, int64_t end, float* out) {
    with_rule(rule, [&](auto r) {
        gather_rows<decltype(r)>(table, rule, clock, ids, n, begin, end, out);
    });
}

void update_half(const TableView& table, const Rule& rule, const Clock& clock, const Step& step,
                 const Plan& plan, const float* gradients) {
    with_rule(rule,
              [&](auto r) { update_rows<decltype(r)>(table, rule, clock, step, plan, gradients); });
}

void materialize_half(const TableView& table, const Rule& rule, const Clock& clock,
                      const Plan& plan) {
    with_rule(rule, [&](auto r) { materialize_rows<decltype(r)>(table, rule, clock, plan); });
}

void materialize_all_half(const TableView& table, const Rule& rule, const Clock& clock) {
    with_rule(rule, [&](auto r) { materialize_all_rows<decltype(r)>(table, rule, clock); });
}

void widen(Storage storage, const uint16_t* stored, int64_t n, float* out) {
    with_half(storage, [&](auto half) {
        for (int64_t i = 0; i < n; ++i) out[i] = half.widen(stored[i]);
    });
}

void narrow(Storage storage, const float* values, int64_t n, uint16_t* out) {
    with_half(storage, [&](auto half) {
        for (int64_t i = 0; i < n; ++i) out[i] = half.narrow(half.nearest(values[i]));
    });
}

}  // namespace ROWWISE_ISA
}  // namespace rowwise
