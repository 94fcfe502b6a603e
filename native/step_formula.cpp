#include "step_formula.hpp"

#include <cmath>

namespace rowwise {

namespace {

// u_t of Nadam.
double momentum_at(double beta_1, double t, double decay) {
    return beta_1 * (1.0 - 0.5 * std::pow(0.96, t * decay));
}

// U_t = u_1 ... u_t; 0 from where it is below 2^-80, as u_t <= beta_1.
double momentum_product(double beta_1, int64_t t, double decay) {
    if (std::pow(beta_1, static_cast<double>(t)) < 0x1p-80) return 0.0;
    double product = 1.0;
    for (int64_t i = 1; i <= t; ++i) product *= momentum_at(beta_1, static_cast<double>(i), decay);
    return product;
}

}  // namespace

StepParams StepFormula::at(double rate, int64_t iteration) const {
    StepParams step{iteration, rate,           1.0 - rate * weight_decay,
                    scale,     gradient_scale, epsilon_factor};
    const auto t = static_cast<double>(iteration);
    const double root = std::sqrt(1.0 - std::pow(beta_2, t));
    switch (kind) {
        case Kind::constant: break;
        case Kind::rate: step.scale = rate * scale; break;
        case Kind::adam_hat: step.epsilon_factor = root; [[fallthrough]];
        case Kind::adam: step.scale = rate * root / (1.0 - std::pow(beta_1, t)); break;
        case Kind::adamax: step.scale = rate / (1.0 - std::pow(beta_1, t)); break;
        case Kind::nadam: {
            const double now = momentum_at(beta_1, t, momentum_decay);
            const double next = momentum_at(beta_1, t + 1, momentum_decay);
            const double product = momentum_product(beta_1, iteration, momentum_decay);
            const double scaled = rate * root;
            step.scale = scaled * next / (1.0 - product * next);
            step.gradient_scale = scaled * (1.0 - now) / (1.0 - product);
            step.epsilon_factor = root;
        }
    }
    return step;
}

}  // namespace rowwise
