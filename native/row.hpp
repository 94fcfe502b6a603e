// One row of a table under a rule: where it lies, what it missed, what that does to it, and a step.
#pragma once
#include <cstring>

#include "rows.hpp"
#include "rules.hpp"

namespace rowwise {
namespace ROWWISE_ISA {
namespace {  // of each file that includes this, for the compiler to inline as it would there

template <class R>
struct Row {
    float* w;
    float* z[R::slots > 0 ? R::slots : 1];

    Row(const TableView& table, int64_t id) : Row(table, id, table.weights + id * table.dim) {}
    // A row whose weights lie elsewhere, widened to float32.
    Row(const TableView& table, int64_t id, float* weights) : w(weights) {
        const int64_t slot_dim = R::row_slots ? 1 : table.dim;
        for (int i = 0; i < R::slots; ++i) z[i] = table.slots[i] + id * slot_dim;
    }

    // Asks for one line, or for all.
    template <bool Write>
    void ask(int64_t d, bool slots) const {
        __builtin_prefetch(w + d, Write);
        if (slots && (!R::row_slots || d == 0))
            for (int i = 0; i < R::slots; ++i) __builtin_prefetch(z[i] + d, Write);
    }

    void ask_slots(int64_t dim) const {
        for (int64_t d = 0; d < dim && d < kHead; d += kLine)
            if (!R::row_slots || d == 0)
                for (int i = 0; i < R::slots; ++i) __builtin_prefetch(z[i] + d, 1);
    }

    void ask_all(int64_t dim, bool slots) const {
        for (int64_t d = 0; d < dim && d < kHead; d += kLine) ask<false>(d, slots);
    }

    Slots<R::slots> load(int64_t d) const {
        Slots<R::slots> s{};
        for (int i = 0; i < R::slots; ++i) s.z[i] = z[i][R::row_slots ? 0 : d];
        return s;
    }

    void store(int64_t d, const Slots<R::slots>& s) const {
        for (int i = 0; i < R::slots; ++i) z[i][R::row_slots ? 0 : d] = s.z[i];
    }
};

// Compute what rows missed, from their states and the clock.
template <class R>
struct Lag {
    const TableView& table;
    const Clock& clock;
    const LaggedUpdate* recent;
    const uint32_t now, horizon;

    Lag(const TableView& table, const Clock& clock)
        : table(table), clock(clock), recent(clock.recent()), now(clock.now()),
          horizon(clock.horizon()) {}

    // Whether a row has missed steps. A damaged file's rows may be ahead of the clock.
    bool lags(const RowState& state) const { return now != 0 && state.last_step < now; }

    // Slots that cannot move the weight need not be read: those of an untouched row are zero.
    bool reads_slots(const RowState& state) const {
        return R::moves && !(table.slots_pristine && state.update_count == 0);
    }

    const LaggedUpdate& missed(const RowState& state, LaggedUpdate& scratch) const {
        const uint32_t k = now - state.last_step;
        if (k <= horizon) return recent[k];
        return scratch = clock.since(state.last_step);
    }
};

// Whether missed steps have to be replayed for some elements of a row.
template <class R>
bool replays(const LaggedUpdate& lagged, const Hyperparameters& h, const Row<R>& row, int64_t dim) {
    bool any = false;
    if constexpr (R::expands) {
        if (!R::may_fail(lagged)) return false;
        const float limit = R::limit(lagged, h);
        for (int64_t d = 0; d < dim; ++d) any |= R::fails(limit, row.load(d));
    }
    return any;
}

// out <- the present values of those elements that the polynomial in y does not serve.
template <class R>
void replay_where_it_fails(const Lag<R>& lag, const Rule& rule, const RowState& state,
                           const Row<R>& row, const LaggedUpdate& lagged, float* out) {
    if constexpr (R::expands) {
        const LaggedUpdate k = lagged;
        const Hyperparameters h = rule.hyper;
        const float limit = R::limit(k, h);
        const int64_t dim = lag.table.dim;
        const Scratch<double> root(dim), sum(dim);
        const Scratch<int64_t> which(dim);
        int64_t n = 0;
        for (int64_t d = 0; d < dim; ++d) {
            const auto slots = row.load(d);
            if (!R::fails(limit, slots)) continue;
            which.data[n] = d;
            root.data[n] = R::root(slots);
            sum.data[n++] = 0;
        }
        const Scratch<Clock::Term> terms(lag.horizon);
        const int64_t count = lag.clock.replay_terms(state.last_step, terms.data);
        double power = 1, shrink = 1;
        for (int64_t j = 0; j < count; ++j) {  // all elements at once: a division each is the cost
            power *= h.exact_beta_1;
            shrink *= h.exact_shrink;
            const double scale = terms.data[j].scale * power;
            const double epsilon = h.exact_epsilon * terms.data[j].epsilon_factor;
            for (int64_t i = 0; i < n; ++i)
                sum.data[i] += scale / R::denominator(root.data[i] * shrink, epsilon);
        }
        for (int64_t i = 0; i < n; ++i) {
            const int64_t d = which.data[i];
            const double moved = row.load(d).z[0] * sum.data[i];
            out[d] = static_cast<float>(static_cast<double>(k.decay_factor) * row.w[d] - moved);
        }
    }
}

// out <- the row's present value. Calls ask(d) before each line's arithmetic.
template <class R, class Ask>
void value_at(const Lag<R>& lag, const Rule& rule, const RowState& state, const Row<R>& row,
              float* __restrict out, Ask&& ask) {
    const int64_t dim = lag.table.dim;
    const float* __restrict w = row.w;
    LaggedUpdate scratch;
    // A copy, which the compiler knows that nobody else writes.
    const LaggedUpdate k = lag.missed(state, scratch);
    if (!lag.reads_slots(state)) {
        by_lines(dim, ask, [&](int64_t d) { out[d] = R::lag_untrained(k, w[d]); });
        return;
    }
    const Hyperparameters h = rule.hyper;
    by_lines(dim, ask, [&](int64_t d) {
        float value = w[d];
        R::lag_weight(k, h, value, row.load(d));
        out[d] = value;
    });
    if (replays(k, h, row, dim)) replay_where_it_fails(lag, rule, state, row, k, out);
}

// Brings a row's weights and slots up to date.
template <class R>
void apply_lag(const Lag<R>& lag, const Rule& rule, const RowState& state, const Row<R>& row) {
    if (state.last_step == lag.now) return;
    const int64_t dim = lag.table.dim;
    LaggedUpdate scratch;
    const LaggedUpdate k = lag.missed(state, scratch);
    const Hyperparameters h = rule.hyper;
    if constexpr (R::row_slots) {
        auto slots = row.load(0);
        for (int64_t d = 0; d < dim; ++d) R::lag_weight(k, h, row.w[d], slots);
        R::lag_slots(k, h, slots);
        row.store(0, slots);
        return;
    }
    const bool replayed = replays(k, h, row, dim);
    if (replayed) {
        const Scratch<float> present(dim);
        value_at(lag, rule, state, row, present.data, [](int64_t) {});
        std::memcpy(row.w, present.data, dim * sizeof(float));
    }
    for (int64_t d = 0; d < dim; ++d) {
        auto slots = row.load(d);
        float value = row.w[d];
        if (!replayed) R::lag_weight(k, h, value, slots);
        R::lag_slots(k, h, slots);
        row.w[d] = value;
        row.store(d, slots);
    }
}

// Applies what the row missed, then one step with gradient g (dim,), in one pass over the row. Asks
// for the row `ahead`.
template <class R>
void lag_and_step(const LaggedUpdate& lagged, const Rule& rule, const Step& step, const Row<R>& row,
                  const float* __restrict g, int64_t dim, const Row<R>& ahead) {
    const LaggedUpdate k = lagged;
    const Hyperparameters h = rule.hyper;
    const Step s = step;
    float* __restrict w = row.w;
    const auto ask = [&](int64_t d) { ahead.template ask<true>(d, true); };
    if constexpr (R::row_slots) {
        auto slots = row.load(0);
        const auto before = slots;
        R::lag_slots(k, h, slots);
        const float rate = R::step_row(s, h, dot(g, g, dim) / static_cast<float>(dim), slots);
        row.store(0, slots);
        by_lines(dim, ask, [&](int64_t d) {
            float value = w[d];
            R::lag_weight(k, h, value, before);
            R::step(s, rate, g[d], value);
            w[d] = value;
        });
    } else {
        by_lines(dim, ask, [&](int64_t d) {
            float value = w[d];
            auto slots = row.load(d);
            R::lag_weight(k, h, value, slots);
            R::lag_slots(k, h, slots);
            R::step(s, h, g[d], value, slots);
            w[d] = value;
            row.store(d, slots);
        });
    }
}

// Calls f with the class of the rule.
template <class F>
void with_rule(const Rule& rule, F&& f) {
    switch (rule.family) {
#define ROWWISE_CASE(name, ...)                                               \
    case Family::name:                                                        \
        static_assert(__VA_ARGS__::row_slots == has_row_slots(Family::name)); \
        return f(__VA_ARGS__{});
        ROWWISE_FAMILIES(ROWWISE_CASE)
#undef ROWWISE_CASE
    }
}

}  // namespace
}  // namespace ROWWISE_ISA
}  // namespace rowwise
