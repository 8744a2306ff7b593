"""Problems with known answers: quadratics, the double well, and posteriors in closed form."""
