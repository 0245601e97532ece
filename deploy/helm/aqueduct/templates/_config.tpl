{{- /* The configuration file as YAML: `config`, the models' settings, and what the chart adds to both. */ -}}
{{- define "aqueduct.config" -}}
{{- $config := deepCopy .Values.config -}}
{{- $models := dict -}}
{{- range $name, $model := .Values.models -}}
{{- $_ := set $models $name (include "aqueduct.settings" (dict "root" $ "name" $name "model" $model) | fromYaml) -}}
{{- end -}}
{{- $_ := set $config "models" $models -}}
{{- if include "aqueduct.needsViewer" . -}}
{{- $viewer := dict "name" "kubernetes-viewer" "role" "viewer" "sha256" "${VIEWER_TOKEN_SHA256}" -}}
{{- $_ := set $config "tokens" (append (get $config "tokens" | default list) $viewer) -}}
{{- end -}}
{{- if .Values.flower.enabled -}}
{{- $flower := get $config "flower" | default dict -}}
{{- if not (get $flower "password") -}}
{{- $_ := set $config "flower" (set $flower "password" "${FLOWER_PASSWORD}") -}}
{{- end -}}
{{- end -}}
{{- toYaml $config -}}
{{- end -}}

{{- /* One model's settings, with the hooks of `wake`. Here stand the rules that a schema cannot tell. */ -}}
{{- define "aqueduct.settings" -}}
{{- $settings := deepCopy .model.settings -}}
{{- $values := include "aqueduct.model" (dict "root" .root "model" .model) | fromYaml -}}
{{- $wake := .model.wake | default dict -}}
{{- $absent := get $settings "when_absent" | default "" -}}
{{- if $wake.deployment -}}
{{- if or (get $settings "wake") (get $settings "sleep") (get $settings "idle_seconds") -}}
{{- fail (printf "models.%s: wake writes the hooks; take wake, sleep and idle_seconds out of settings, or remove wake" .name) -}}
{{- end -}}
{{- if eq $absent "fail" -}}
{{- fail (printf "models.%s: wake needs settings.when_absent: hold, as requests wait for the start" .name) -}}
{{- end -}}
{{- $absent = "hold" -}}
{{- $_ := set $settings "when_absent" "hold" -}}
{{- $target := printf "%ss/%s" (lower ($wake.kind | default "Deployment")) $wake.deployment -}}
{{- $command := list "python" "/usr/local/lib/aqueduct/scale.py" $target -}}
{{- $_ := set $settings "wake" (dict "command" (append $command (int ($wake.replicas | default 1) | toString))) -}}
{{- if $wake.idleSeconds -}}
{{- $_ := set $settings "sleep" (dict "command" (append $command "0")) -}}
{{- $_ := set $settings "idle_seconds" $wake.idleSeconds -}}
{{- end -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (eq (int $values.autoscaling.minReplicas) 0) (ne $absent "hold") -}}
{{- fail (printf "models.%s: autoscaling.minReplicas of 0 needs settings.when_absent: hold; else requests get 503 no_worker while there is no pod" .name) -}}
{{- end -}}
{{- if and $values.autoscaling.enabled (gt (int $values.autoscaling.minReplicas) (int $values.autoscaling.maxReplicas)) -}}
{{- fail (printf "models.%s: autoscaling.minReplicas must not be above maxReplicas" .name) -}}
{{- end -}}
{{- toYaml $settings -}}
{{- end -}}

{{- /* What changes when pods must be made anew: with reload, the settings alone that no running process takes. */ -}}
{{- define "aqueduct.checksum" -}}
{{- $config := include "aqueduct.config" .root | fromYaml -}}
{{- if and .root.Values.reload .reloads -}}
{{- $config = omit $config "models" "tokens" "groups" "lanes" "tenant_share" "log_level" -}}
{{- end -}}
{{- toYaml $config | sha256sum -}}
{{- end -}}

{{- /* Variables do not change under a process that runs: what is given in the values makes pods anew. */ -}}
{{- define "aqueduct.givenSecrets" -}}
{{- $given := list .Values.secrets .Values.redis.external.url -}}
{{- range $name, $model := .Values.models -}}
{{- $given = append $given ($model.secret | default dict) -}}
{{- end -}}
{{- toJson $given -}}
{{- end -}}

{{- /* How long a pod may take to end: what waits before SIGTERM, the drain, and last words. */ -}}
{{- define "aqueduct.grace" -}}
{{- $section := get .root.Values.config .section | default dict -}}
{{- $drain := 30 -}}
{{- if hasKey $section "drain_seconds" -}}
{{- $drain = ceil (get $section "drain_seconds") -}}
{{- end -}}
{{- add (int $drain) (int .before) 15 -}}
{{- end -}}
