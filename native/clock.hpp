// The clock: what the steps since a row's stamp do to a row that no batch touched.
//
// With a zero gradient a row moves by a sum over the missed steps j = 1..k,
//
//     w <- keep * w  -  X * sum_j  a_{s+j} * P(s+j) * ratio^j / (1 + y * x_j),
//     x_j = growth^j * e_{s+j} / e_{s+1} - 1  >=  0
//
// where s is the stamp, a_i the scale of step i, e_i its factor on epsilon (1, or where epsilon
// comes after the bias correction sqrt(1 - beta_2^i)), P(i) the product of the weight-decay factors
// of the steps after i, and X and y belong to the row's element (y = 0 for plain momentum; for Adam
// ratio = beta_1 / sqrt(beta_2), growth = 1 / sqrt(beta_2), y = eps / (sqrt(v) + eps) with
// eps = epsilon * e_{s+1}). Expanding 1 / (1 + y x) in powers of x gives a polynomial in y whose
// coefficients,
//
//     C_n(s) = sum_j a_{s+j} * P(s+j) * ratio^j * x_j^n,
//
// depend on the stamp alone. From s+1 to s every x becomes g x + (g - 1), g = growth * e_{s+2} /
// e_{s+1} >= 1, so C(s) follows from C(s+1) by sums of positive numbers: all stamps within the
// window are refreshed once a step without cancellation, and the coefficients of a stamp that
// leaves the window are kept for good. The remainder of the expansion is at most y^N C_N of the
// movement's C_0 (alternating, x >= 0): for a y with which that is not below float32 rounding, the
// terms are replayed one by one.
#pragma once
#include <cstdint>
#include <vector>

namespace rowwise {

constexpr int kTerms = 8;  // terms of the expansion kept
constexpr int kSlots = 3;  // slots a rule can have, at most
constexpr float kAnyY = 2;  // y lies in [0, 1]

// What k missed steps do to a row, for one k.
struct Skip {
    float keep = 1;            // factor on the weight
    float decay[kSlots] = {};  // factor on each slot
    float move[kTerms] = {};   // C_0, -C_1, C_2, ...: polynomial in y
    float y_max = kAnyY;       // the expansion holds up to this y; above it, replay the terms
    float epsilon_factor = 1;  // e_{s+1}
    float rate = 0;            // scale of the last step
    uint32_t missed = 0;       // k
};

// One step's numbers, as the clock remembers them.
struct Tick {
    double scale = 0;           // a_i
    double keep = 1;            // weight-decay factor
    double epsilon_factor = 1;  // e_i
};

// base^k for 0 <= k < 2^16 from two short tables, exact to float64 rounding.
class Powers {
  public:
    explicit Powers(double base);
    double operator()(uint32_t k) const { return high_[k >> 8] * low_[k & 255]; }

  private:
    std::vector<double> low_, high_;
};

class Clock {
  public:
    // Steps remembered; the table is brought up to date before they run out.
    static constexpr uint32_t kHorizon = (1u << 16) - 1;

    // window: after how many missed steps the rest of the sum is below 2^-30 of it.
    // terms: 0 (the weight stands still), 1 (momentum) or kTerms (Adam).
    // endless: ratio is 1, no step is ever too long ago; terms is 1.
    Clock(double ratio, double growth, int terms, bool endless, uint32_t window,
          const std::vector<double>& slot_decay);

    void advance(const Tick& tick);  // one step more; its epsilon_factor no smaller than the last
    void restart();                  // every row is current: forget the past

    // The past, for a file: a clock restored from it goes on to the same bits. Coefficients are
    // those of the stamps that left the window, each kTerms + 1 numbers.
    const std::vector<Tick>& ticks() const { return ticks_; }  // (now + 1,); the first is no step
    std::vector<double> closed() const;
    // Throws std::invalid_argument if the numbers are not of such a clock.
    void restore(const std::vector<Tick>& ticks, const double* closed, std::size_t numbers);

    uint32_t now() const { return now_; }
    uint32_t window() const { return window_; }
    double epsilon_factor() const { return ticks_[now_].epsilon_factor; }  // of the last; 0: none
    const Skip* recent() const { return recent_.data(); }  // by k = now - stamp, up to window

    // Any stamp <= now.
    Skip since(uint32_t stamp) const;

    // A missed step's term: the movement's numerator but for ratio^j, and its epsilon's factor.
    struct Term {
        double scale, epsilon_factor;
    };
    // The single terms since `stamp`, j = 1.., into `terms`. Returns their number, at most `window`.
    int64_t replay_terms(uint32_t stamp, Term* terms) const;

  private:
    struct Coefficients {
        double c[kTerms + 1] = {};  // the last bounds the remainder
    };
    void push(const Tick& tick);
    Coefficients refresh_recent();  // those of the stamp at the window's far end
    void extend(Coefficients& c, uint32_t step, double kept) const;  // C(step) -> C(step - 1)
    void write(Skip& skip, uint32_t k, double keep, double tail, const Coefficients& c) const;
    double kept_since(uint32_t step) const;  // P(step)

    const double ratio_, growth_;
    const int terms_;
    const bool endless_;
    const uint32_t window_;
    const bool expands_;
    std::vector<Powers> slot_decay_;

    uint32_t now_ = 0;
    bool decays_ = false;               // some step decayed the weights
    std::vector<Tick> ticks_;           // (now + 1,)
    std::vector<double> log_keep_;      // (now + 1,) running log-product of the keeps
    std::vector<double> total_;         // (now + 1,) sum_i a_i P(i) as of each step, if endless
    std::vector<Coefficients> closed_;  // by stamp, for stamps that left the window
    std::vector<Skip> recent_;
};

}  // namespace rowwise
