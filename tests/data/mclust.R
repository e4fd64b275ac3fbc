# Makes mclust_*.csv: the clusters that mclust starts from, and the BIC and log-likelihood that it comes to with
# its own tolerance (1e-5, relative) and with a tight one. Run with R 4.2.2 and mclust 6.0.0; no test needs either.
suppressMessages(library(mclust))
models <- c("EII", "VII", "EEI", "VVI", "EEE", "VVV")
tight <- emControl(tol = c(1e-12, 1e-12), itmax = c(10000, 10000))
found <- NULL
for (name in c("faithful", "iris")) {
  x <- data.matrix(if (name == "faithful") faithful else iris[, 1:4])
  default <- mclustBIC(x, G = 1:9, modelNames = models, verbose = FALSE)
  start <- hclass(attr(default, "initialization")$hcPairs, 1:9)
  write.table(start, paste0("mclust_start_", name, ".csv"), sep = ",", row.names = FALSE, col.names = FALSE)
  for (m in models) for (g in 1:9) {
    end <- if (g == 1) mvn(m, x) else me(x, m, unmap(start[, g]), control = tight)
    bic <- bic(m, end$loglik, nrow(x), ncol(x), g)
    found <- rbind(found, data.frame(data = name, model = m, components = g,
      default_bic = sprintf("%.4f", default[g, m]), bic = sprintf("%.8f", bic),
      log_likelihood = sprintf("%.8f", end$loglik)))
  }
}
write.csv(found, "mclust_bic.csv", row.names = FALSE, quote = FALSE)
