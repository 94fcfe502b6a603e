// What missed steps do to a row, from the clock's arrays, which may lie in a GPU's memory: this
// compiles for a GPU as well. clock.hpp says what is computed, and why.
#pragma once
#include <cmath>

#include "plain.hpp"

namespace rowwise {

// One step, as the clock remembers it.
struct StepRecord {
    double scale = 0;           // a_i
    double decay_factor = 1;    // of the weights
    double epsilon_factor = 1;  // e_i
};

// A product of many factors, as mantissa * 2^exponent: it neither overflows nor vanishes.
struct RunningProduct {
    double mantissa = 1;  // in [1/2, 1), or 1 at the start
    int64_t exponent = 0;

    ROWWISE_HD RunningProduct times(double factor) const {
        RunningProduct product;
        int shift = 0;
        product.mantissa = frexp(mantissa * factor, &shift);
        product.exponent = exponent + shift;
        return product;
    }
    // This product over an earlier one, which is not 0.
    ROWWISE_HD double over(const RunningProduct& earlier) const {
        // Past these exponents the quotient is 0 or infinity in any case.
        const int64_t difference = exponent - earlier.exponent;
        const int64_t bounded = difference < -3000 ? -3000 : difference > 3000 ? 3000 : difference;
        return ldexp(mantissa / earlier.mantissa, static_cast<int>(bounded));
    }
};

// C_0 to C_N, of which the last bounds the remainder.
struct Coefficients {
    double c[kTerms + 1] = {};
};

// The sums of a last step within the horizon.
struct HorizonSum {
    double decay = 1;  // P(s)
    double x = 0;      // of the latest term
    Coefficients terms;
};

// A missed step's term: the movement's numerator but for ratio^j, and its epsilon's factor.
struct ReplayTerm {
    double scale, epsilon_factor;
};

// Tables of 256 low and 256 high powers of a base: base^k for 0 <= k < 2^16.
constexpr int kPowers = 512;
ROWWISE_HD inline double power(const double* table, uint32_t k) {
    return table[256 + (k >> 8)] * table[k & 255];
}

constexpr double kRemainder = 1.0 / (1 << 26);  // of the movement: below float32 rounding
constexpr double kLargest = 1e30;               // of the coefficients, which become float32

// Where the arrays of a clock lie, and what it counts.
struct ClockView {
    LaggedUpdate* recent;        // (horizon + 1,) by missed steps, as rows read it
    HorizonSum* sums;            // (horizon + 1,) the same, in float64
    StepRecord* steps;           // (now + 1,); the first is no step
    RunningProduct* decay;       // (now + 1,) of the decay factors
    double* total;               // (now + 1,) sum_i a_i P(i) as of each step, if unbounded
    Coefficients* closed;        // by last step, of those that left the horizon
    const double* ratio_powers;  // (kPowers,)
    const double* slot_powers;   // (slots, kPowers)
    double growth;
    uint32_t now, horizon;
    int terms, slots;
    bool unbounded, expands;
    bool decays;  // whether some step decayed the weights

    // What step `step` adds to the sums of every last step before it.
    struct Addend {
        double scale, decay_factor, growth;
    };
    ROWWISE_HD Addend addend(uint32_t step) const {
        const StepRecord record = steps[step];
        return {record.scale, record.decay_factor,
                growth * record.epsilon_factor / steps[step - 1].epsilon_factor};
    }

    // sum <- the sum `before`, of a last step that now misses one more step, its k-th.
    ROWWISE_HD void extend(const Addend& step, const HorizonSum& before, uint32_t k,
                           HorizonSum& sum) const {
        const double factor = step.decay_factor, g = step.growth;
        sum.decay = before.decay * factor;
        if (terms == 0) return;
        const double term = power(ratio_powers, k) * step.scale;
        if (terms == 1) {
            sum.terms.c[0] = before.terms.c[0] * factor + term;
            return;
        }
        const double x = k > 1 ? g * before.x + (g - 1) : growth - 1, square = x * x;
        double powers[kTerms + 1] = {term, term * x};  // term x^n
        for (int n = 2; n <= kTerms; ++n) powers[n] = powers[n - 2] * square;
        for (int n = 0; n <= kTerms; ++n) sum.terms.c[n] = before.terms.c[n] * factor + powers[n];
        sum.x = x;
    }

    // Appends a step; `now` already counts it.
    ROWWISE_HD void push(const StepRecord& step) const {
        steps[now] = step;
        decay[now] = decay[now - 1].times(step.decay_factor);
        if (unbounded) total[now] = total[now - 1] * step.decay_factor + step.scale;
    }

    // Whether last steps leave the horizon with coefficients of their own.
    ROWWISE_HD bool closes() const { return terms != 0 && !unbounded; }

    // Writes what depends on the number of missed steps alone.
    ROWWISE_HD void count_missed(LaggedUpdate& lag, uint32_t k) const {
        lag.missed = k;
        for (int i = 0; i < kSlots; ++i)
            lag.slot_decay[i] =
                i < slots && k > 0 ? static_cast<float>(power(slot_powers + i * kPowers, k)) : 1.0f;
    }

    ROWWISE_HD void write(LaggedUpdate& lag, double decay_factor, double tail,
                          const Coefficients& c) const {
        lag.last_scale = static_cast<float>(steps[now].scale);
        lag.epsilon_factor = static_cast<float>(steps[now - lag.missed + 1].epsilon_factor);
        lag.decay_factor = static_cast<float>(decay_factor);
        if (terms != kTerms) {
            lag.coefficients[0] = static_cast<float>(c.c[0] * tail);
            return;
        }
        const bool usable = expands && c.c[kTerms] < kLargest;
        for (int n = 0; n < kTerms; n += 2) {
            lag.coefficients[n] = usable ? static_cast<float>(c.c[n] * tail) : 0.0f;
            lag.coefficients[n + 1] = usable ? static_cast<float>(-c.c[n + 1] * tail) : 0.0f;
        }
        static_assert(kTerms == 8, "the bound is y^8 C_8 <= kRemainder C_0");
        if (!usable)
            lag.y_max = -1;
        else if (c.c[kTerms] > kRemainder * c.c[0])
            lag.y_max = static_cast<float>(sqrt(sqrt(sqrt(kRemainder * c.c[0] / c.c[kTerms]))));
        else
            lag.y_max = kAnyY;
    }

    // P(step).
    ROWWISE_HD double decay_since(uint32_t step) const {
        // A product of 0 is not divided by: a step with such a factor is the only one that a row
        // can have missed.
        return decays && step != now ? decay[now].over(decay[step]) : 1.0;
    }

    // What a row has missed whose last step is any one up to now.
    ROWWISE_HD LaggedUpdate since(uint32_t last_step) const {
        const uint32_t k = now - last_step;
        if (k <= horizon) return recent[k];
        if (last_step > now) return recent[0];  // only a damaged file's rows say so
        LaggedUpdate lag;
        count_missed(lag, k);
        Coefficients c;
        double tail = 1;
        if (unbounded) {
            c.c[0] = total[now] - decay_since(last_step) * total[last_step];
        } else if (terms) {
            c = closed[last_step];
            tail = decay_since(last_step + horizon);
        }
        write(lag, decay_since(last_step), tail, c);
        return lag;
    }

    // How many single terms there are since `last_step`, at most `horizon`, and the j-th, from 1.
    ROWWISE_HD uint32_t replay_count(uint32_t last_step) const {
        if (last_step > now) return 0;
        return now - last_step < horizon ? now - last_step : horizon;
    }
    ROWWISE_HD ReplayTerm replay_term(uint32_t last_step, uint32_t j) const {
        return {steps[last_step + j].scale * decay_since(last_step + j),
                steps[last_step + j].epsilon_factor};
    }
};

}  // namespace rowwise
