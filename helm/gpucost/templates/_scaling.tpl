{{- /* What a profile means: thresholds, and seconds until replicas are taken away. */ -}}
{{- define "gpucost.profiles" -}}
realtime: {up: 0.7, down: 0.3, cooldown: 60}
interactive: {up: 0.6, down: 0.25, cooldown: 30}
batch: {up: 0.85, down: 0.4, cooldown: 300}
{{- end -}}

{{- define "gpucost.profile" -}}
{{- $profile := get (include "gpucost.profiles" . | fromYaml) (default "realtime" .profile) -}}
{{- toYaml (dict
  "up" (default $profile.up .upRatio)
  "down" (default $profile.down .downRatio)
  "cooldown" (ternary .cooldownSeconds $profile.cooldown (hasKey . "cooldownSeconds"))) -}}
{{- end -}}

{{- /* A target of `scaling.targets` as the rules' settings have it. */ -}}
{{- define "gpucost.scalingSettings" -}}
{{- $target := .target -}}
{{- $profile := include "gpucost.profile" $target | fromYaml -}}
{{- $settings := dict
  "namespace" $target.namespace
  "workload" ($target.workload | default $target.name)
  "up_ratio" $profile.up
  "down_ratio" $profile.down
  "min_replicas" (int (default 0 $target.minReplicas))
  "max_replicas" (int $target.maxReplicas) -}}
{{- with .root.Values.clusterName -}}{{- $_ := set $settings "cluster" . -}}{{- end -}}
{{- range $theirs, $ours := dict "requestsPerReplica" "requests_per_replica" "usdPerRequest" "usd_per_request" "usdPerHour" "usd_per_hour" "queue" "queue" "arrivals" "arrivals" -}}
{{- with get $target $theirs -}}{{- $_ := set $settings $ours . -}}{{- end -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{- /* Refuses what cannot work, with the reason. */ -}}
{{- define "gpucost.checkScaling" -}}
{{- $scaling := .Values.scaling -}}
{{- $rules := default dict .Values.rules -}}
{{- $prometheus := default dict $scaling.prometheus -}}
{{- if not $prometheus.serverAddress -}}
{{- fail "scaling.prometheus.serverAddress is empty: KEDA must know which Prometheus has the rules' series." -}}
{{- end -}}
{{- if and (eq ($rules.method | default "none") "none") (not $scaling.rulesElsewhere) -}}
{{- fail "scaling.targets need the series of rules/scaling.yaml, which nobody records: set rules.method, or scaling.rulesElsewhere=true where they are loaded by other means." -}}
{{- end -}}
{{- if not (include "gpucost.asksCluster" .) -}}
{{- fail "scaling.targets need to know the workload of a pod, and config.kubernetes.enabled is false: no series would have a target's name." -}}
{{- end -}}
{{- $countsRequests := dig "requests" "enabled" true .Values.config -}}
{{- if and $prometheus.authenticationRef $prometheus.secretTargetRef -}}
{{- fail "scaling.prometheus: give authenticationRef or secretTargetRef, not both." -}}
{{- end -}}
{{- if and (or $prometheus.authenticationRef $prometheus.secretTargetRef) (not $prometheus.authModes) -}}
{{- fail "scaling.prometheus.authModes is empty: without it KEDA does not use the credentials, nor a CA." -}}
{{- end -}}
{{- if and $prometheus.authenticationRef (not $prometheus.authenticationRef.name) -}}
{{- fail "scaling.prometheus.authenticationRef has no name." -}}
{{- end -}}
{{- $seen := dict -}}
{{- range $scaling.targets -}}
{{- $where := printf "scaling.targets (%s/%s)" .namespace .name -}}
{{- $key := printf "%s/%s" .namespace .name -}}
{{- if hasKey $seen $key -}}{{- fail (printf "%s is there twice: two ScaledObjects would fight over it." $where) -}}{{- end -}}
{{- $_ := set $seen $key true -}}
{{- if hasKey . "triggers" -}}
{{- fail (printf "%s.triggers: separate triggers combine by their maximum, so one on cost could never hold replicas back; and a cost per request falls when the load rises, so it would scale out what idles. State usdPerRequest, usdPerHour, queue and arrivals." $where) -}}
{{- end -}}
{{- if or (hasKey . "formula") (hasKey . "scalingModifiers") -}}
{{- fail (printf "%s.formula: the formula is the chart's. KEDA's webhook refuses one that names a trigger that is not there or gives no number." $where) -}}
{{- end -}}
{{- if or (contains "cost_per_" (default "" .queue)) (contains "cost_per_" (default "" .arrivals)) -}}
{{- fail (printf "%s: a cost per request or token falls when the load rises, so it says nothing of demand. Ask the gateway for requests that wait (queue) or arrive (arrivals)." $where) -}}
{{- end -}}
{{- if not $countsRequests -}}
{{- range $value, $needed := dict "requestsPerReplica" .requestsPerReplica "usdPerRequest" (and .usdPerRequest (not .arrivals)) -}}
{{- if $needed -}}{{- fail (printf "%s.%s needs the engines' requests, which nobody reads: config.requests.enabled is false." $where $value) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- $least := int (default 0 .minReplicas) -}}
{{- $most := int .maxReplicas -}}
{{- if gt $least $most -}}{{- fail (printf "%s: minReplicas %d is above maxReplicas %d." $where $least $most) -}}{{- end -}}
{{- if gt (int (default 1 .fallbackReplicas)) $most -}}{{- fail (printf "%s: fallbackReplicas is above maxReplicas %d." $where $most) -}}{{- end -}}
{{- if and (eq $least 0) (not (or .queue .arrivals .officeHours)) -}}
{{- fail (printf "%s: at 0 replicas the engine shows nothing, so nothing would ever wake it. Give `queue` or `arrivals`, a query that asks the gateway, or minReplicas: 1." $where) -}}
{{- end -}}
{{- $profile := include "gpucost.profile" . | fromYaml -}}
{{- if ge (float64 $profile.down) (float64 $profile.up) -}}{{- fail (printf "%s: downRatio must be below upRatio." $where) -}}{{- end -}}
{{- with .officeHours -}}
{{- if gt (int .replicas) $most -}}{{- fail (printf "%s.officeHours.replicas is above maxReplicas %d." $where $most) -}}{{- end -}}
{{- range list .start .end -}}
{{- if ne (len (regexSplit `\s+` (trim .) -1)) 5 -}}{{- fail (printf "%s.officeHours: %q must be five fields of cron." $where .) -}}{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- end -}}
